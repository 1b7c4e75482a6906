package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
)

// sendTest sends a test event through a sink and answers with what happens while it happens, one JSON object per line: it may take as
// long as the sink's timeout.
func (h handler) sendTest(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery != "" {
		h.json(w, http.StatusBadRequest, Error{"there are no parameters"})
		return
	}
	control := http.NewResponseController(w)
	limit := func(t time.Time) {
		if err := control.SetWriteDeadline(t); err != nil {
			h.Logger.Debug("a limit could not be set", zap.Error(err))
		}
	}
	defer limit(time.Time{}) // the connection may serve other requests
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err := h.SendTest(r.Context(), r.PathValue("name"), func(s deliver.TestStep) error {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		limit(time.Now().Add(stepTimeout))
		if err := enc.Encode(s); err != nil {
			return err
		}
		return control.Flush()
	})
	switch {
	case err == nil:
	case errors.Is(err, bridge.ErrNotTested):
		h.json(w, http.StatusConflict, Error{err.Error()})
	default:
		h.failed(w, err)
	}
}
