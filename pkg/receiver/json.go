package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// checkJSON returns nil if body is one JSON value in valid UTF-8, else what is wrong with it.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("not valid UTF-8")
	}
	if json.Valid(body) {
		return nil
	}
	return fmt.Errorf("not JSON: %w", json.Unmarshal(body, new(json.RawMessage)))
}
