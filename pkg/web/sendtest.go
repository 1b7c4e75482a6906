package web

import (
	"errors"
	"net/http"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
)

// sendTest sends a test event through a sink and answers with what happens while it happens: it may
// take as long as the sink's timeout.
func (h handler) sendTest(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return badRequest{errors.New("there are no parameters")}
	}
	return answerSteps(h, w, func(report func(deliver.TestStep) error) error {
		return h.SendTest(r.Context(), r.PathValue("name"), report)
	})
}
