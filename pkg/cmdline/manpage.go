package cmdline

import (
	"cmp"
	_ "embed"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/alecthomas/kingpin/v2"
)

// manTemplate is the manual page without what follows from the definitions of the command line.
//
//go:embed manpage.tmpl
var manTemplate string

// ManPage makes the manual page of a version of the definitions of the command line.
func ManPage(model *kingpin.ApplicationModel, version string) (string, error) {
	page, err := template.New("manpage.tmpl").Funcs(template.FuncMap{
		"version": func() string { return version }, "roff": roff, "quoted": quoted, "visible": Visible,
		"usage": usage, "flag": flagTerm,
		"help": func(f *kingpin.FlagModel) string {
			return strings.Join(append([]string{f.Help}, FlagNotes(f)...), " ")
		},
	}).Parse(manTemplate)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = page.Execute(&b, model)
	return b.String(), err
}

// usage is how a command is typed.
func usage(c *kingpin.CmdModel) string {
	parts := []string{`\fB` + roff(c.FullCommand) + `\fP`}
	if len(Visible(c.Flags)) > 0 {
		parts = append(parts, `[\fIflags\fP]`)
	}
	for _, a := range c.Args {
		name := `\fI` + roff(cmp.Or(a.PlaceHolder, a.Name)) + `\fP`
		if !a.Required {
			name = "[" + name + "]"
		}
		parts = append(parts, name)
	}
	if len(c.Commands) > 0 {
		parts = append(parts, `\fIcommand\fP`)
	}
	return strings.Join(parts, " ")
}

// flagTerm is how a flag is typed.
func flagTerm(f *kingpin.FlagModel) string {
	term := `\fB` + roff("--"+f.Name) + `\fP`
	if f.Short != 0 {
		term = `\fB\-` + string(f.Short) + `\fP, ` + term
	}
	if !f.IsBoolFlag() {
		term += `=\fI` + roff(ValueName(f)) + `\fP`
	}
	return term
}

// FlagNotes lists what else the definition of a flag has besides its help.
func FlagNotes(f *kingpin.FlagModel) []string {
	var notes []string
	if f.Required {
		notes = append(notes, "Required.")
	}
	if len(f.Default) > 0 && f.Default[0] != "" {
		notes = append(notes, "Default: "+strings.Join(f.Default, ", ")+".")
	}
	if f.Envar != "" {
		notes = append(notes, "Environment: "+f.Envar+".")
	}
	return notes
}

// Visible are the flags that people are told of.
func Visible(flags []*kingpin.FlagModel) []*kingpin.FlagModel {
	return slices.DeleteFunc(slices.Clone(flags), func(f *kingpin.FlagModel) bool { return f.Hidden })
}

// ValueName is what stands for the value of a flag.
func ValueName(f *kingpin.FlagModel) string {
	return cmp.Or(f.PlaceHolder, strings.ToUpper(f.Name[strings.LastIndexAny(f.Name, ".-")+1:]))
}

// roff escapes what has a meaning in the language of manual pages.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	return regexp.MustCompile(`(?m)^\.`).ReplaceAllString(s, `\&.`)
}

// quoted makes one argument of a request.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
