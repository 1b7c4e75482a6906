package render

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// The placeholders of a subject or topic: what of an event stands in their place.
const (
	FieldHMC   = "hmc"
	FieldType  = "type"
	FieldCPC   = "cpc"
	FieldClass = "class"
	// of the resource.
	FieldName     = "name"
	FieldSeverity = "severity"
)

// NamePart is a part of the name of a subject or topic. One of its members is set.
type NamePart struct {
	Text string
	// of the Field constants
	Field string
}

// SplitName splits the name of a subject or topic at its placeholders, such as {hmc}. The error
// says what is wrong with the name.
func SplitName(name string) ([]NamePart, error) {
	fields := []string{FieldHMC, FieldType, FieldCPC, FieldClass, FieldName, FieldSeverity}
	var parts []NamePart
	for name != "" {
		text, rest, found := strings.Cut(name, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("has a } without a {")
		}
		if text != "" {
			parts = append(parts, NamePart{Text: text})
		}
		if !found {
			break
		}
		field, rest, found := strings.Cut(rest, "}")
		switch {
		case !found:
			return nil, errors.New("has a { without a }")
		case !slices.Contains(fields, field):
			hint := ": there are {" + strings.Join(fields, "}, {") + "}"
			if near := event.Nearest(field, fields); near != "" {
				hint = ", did you mean {" + near + "}?"
			}
			return nil, fmt.Errorf("has an unknown placeholder %s%s", strconv.Quote("{"+field+"}"), hint)
		}
		parts = append(parts, NamePart{Field: field})
		name = rest
	}
	return parts, nil
}
