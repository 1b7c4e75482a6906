package config

import (
	"errors"
	"fmt"
	"mime"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// template checks the keys of the format template, reads the template from its file, and tries it
// on events of each type.
func (d *decoder) template(path string, w *Webhook, batch bool) {
	at := under(path)
	if w.Format != FormatTemplate {
		for _, key := range []string{"template", "template_file", "content_type"} {
			isDefault := key == "content_type" && w.ContentType == DefaultContentType
			if d.has(at(key)) && !isDefault && !d.failed(at("format")) {
				d.errorf(at(key), "has a meaning with format: template only")
			}
		}
		return
	}
	media, _, err := mime.ParseMediaType(w.ContentType)
	if err != nil || media == "" || checkLine(w.ContentType) != "" {
		d.errorf(at("content_type"), "is not a content type such as application/json")
		return
	}
	where, shown := at("template"), ""
	switch {
	case d.has(at("template")) && d.has(at("template_file")):
		d.errorf(at("template_file"), "and template are both given: keep one of them")
		return
	case d.has(at("template_file")):
		where = at("template_file")
		if d.failed(where) {
			return
		}
		ok := false
		if w.Template, shown, ok = d.read(where, &w.TemplateFile, render.MaxTemplate, false); !ok {
			return
		}
	case !d.has(at("template")):
		d.errorf(where, "is missing: give a template here, or a file with it as template_file")
		return
	}
	if d.failed(where) {
		return
	}
	_, err = render.New(w.Template, render.Options{Batch: batch, ContentType: w.ContentType})
	if e, ok := errors.AsType[*render.Error](err); ok {
		msg := e.Error()
		if shown != "" {
			if msg = shown + ": " + e.Msg; e.Line > 0 {
				msg = fmt.Sprintf("%s:%d: %s", filepath.ToSlash(shown), e.Line, e.Msg)
			}
		}
		d.errorf(where, "%s", msg)
	}
}
