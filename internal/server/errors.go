package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
)

func refuse(status int, code, cure, format string, args ...any) *api.Error {
	return &api.Error{Status: status, Code: code, Cause: fmt.Sprintf(format, args...), Cure: cure}
}

func badRequest(cure, format string, args ...any) *api.Error {
	return refuse(http.StatusBadRequest, api.CodeBadRequest, cure, format, args...)
}

// BadRequest makes of err, why something asked for was refused, the error of a call
// that is the caller's to mend.
func BadRequest(err error, cure string) error { return badRequest(cure, "%s", err) }

func notFound(cure, format string, args ...any) *api.Error {
	return refuse(http.StatusNotFound, api.CodeNotFound, cure, format, args...)
}

func conflict(cure, format string, args ...any) *api.Error {
	return refuse(http.StatusConflict, api.CodeConflict, cure, format, args...)
}

// hinter is implemented by errors that know what would cure them.
type hinter interface{ Hint() string }

// wireError is any error as it travels.
func wireError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	out := refuse(http.StatusInternalServerError, api.CodeInternal, "", "%s", err)
	if errors.Is(err, cgroup.ErrGone) {
		out.Status, out.Code = http.StatusConflict, api.CodeConflict
	}
	var h hinter
	if errors.As(err, &h) {
		out.Cure = h.Hint()
	}
	return out
}

// answerError writes an error. What cannot be written has no reader any more.
func answerError(w http.ResponseWriter, err error) {
	e := wireError(err)
	data, marshalErr := json.Marshal(e)
	if marshalErr != nil {
		http.Error(w, e.Cause, e.Status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)+1))
	if e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110 asks for it
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(data, '\n'))
}

// answer writes a value as JSON.
func answer(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return answerBytes(w, append(data, '\n'))
}

func answerBytes(w http.ResponseWriter, data []byte) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data) // who does not read it has gone
	return nil
}
