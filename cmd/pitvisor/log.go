package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// newLogger makes the supervisor's own log: text on a terminal, journal fields
// when stderr is the journal, JSON lines elsewhere.
func (a *app) newLogger(level slog.Level, format string) (*slog.Logger, error) {
	if format == "auto" {
		switch {
		case isTerminal(a.stderr):
			format = "text"
		case stderrIsJournal():
			format = "journal"
		default:
			format = "json"
		}
	}
	switch format {
	case "text":
		return slog.New(patient(a.stderr, func(w io.Writer) slog.Handler {
			return &textHandler{w: w, mu: &sync.Mutex{}, level: level, paint: painter(a.colors(a.stderr))}
		})), nil
	case "json":
		return slog.New(patient(a.stderr, func(w io.Writer) slog.Handler {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: durationText})
		})), nil
	case "journal":
		if !journal.Enabled() {
			return nil, fmt.Errorf("--log-format journal: no journal listens on this host")
		}
		return slog.New(&journalHandler{level: level, socket: &journalSocket{path: journalPath, patience: logPatience}}), nil
	}
	return nil, fmt.Errorf("--log-format %q is none of auto, text, json, journal", format)
}

// durationText writes durations as text with a unit, not as bare nanoseconds.
func durationText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.String())
	}
	return a
}

// stderrIsJournal compares stderr with JOURNAL_STREAM, as systemd.exec(5) asks.
func stderrIsJournal() bool {
	var dev, ino uint64
	if n, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &dev, &ino); n != 2 || err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(2, &st) == nil && st.Dev == dev && st.Ino == ino && journal.Enabled()
}

// textHandler prints "pitvisor: message key=value", one line a record.
type textHandler struct {
	mu    *sync.Mutex // orders writes to w
	w     io.Writer
	level slog.Level
	paint painter
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("pitvisor: ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString(h.paint.paint(styleRed, "error: "))
	case r.Level >= slog.LevelWarn:
		b.WriteString(h.paint.paint(styleYellow, "warning: "))
	}
	if worker := recordWorker(r); worker != "" {
		b.WriteString(worker + ": ")
	}
	b.WriteString(r.Message)
	appendAttrs(&b, h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		appendAttrs(&b, []slog.Attr{a})
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

// recordWorker is the worker that a record is about; it leads the line.
func recordWorker(r slog.Record) string {
	worker := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "worker" {
			worker = a.Value.String()
		}
		return worker == ""
	})
	return worker
}

func appendAttrs(b *strings.Builder, attrs []slog.Attr) {
	for _, a := range attrs {
		switch a.Key {
		case "worker":
		case "stderr": // many lines: shown below the message, indented
			if lines, ok := a.Value.Any().([]string); ok {
				for _, line := range lines {
					b.WriteString("\n    | ")
					b.Write(printable([]byte(line)))
				}
			}
		default:
			fmt.Fprintf(b, " %s=%s", a.Key, quoteValue(a.Value.String()))
		}
	}
}

func quoteValue(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &c
}

func (h *textHandler) WithGroup(string) slog.Handler { return h } // groups are not used here

// journalHandler sends records as journal entries, attributes as
// PITVISOR_NAME=value fields.
type journalHandler struct {
	level  slog.Level
	attrs  []slog.Attr
	socket *journalSocket
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := map[string]string{"SYSLOG_IDENTIFIER": "pitvisor"}
	put := func(a slog.Attr) bool {
		name := "PITVISOR_" + strings.ToUpper(strings.ReplaceAll(a.Key, "-", "_"))
		if lines, ok := a.Value.Any().([]string); ok {
			fields[name] = strings.Join(lines, "\n")
		} else {
			fields[name] = a.Value.String()
		}
		return true
	}
	for _, a := range h.attrs {
		put(a)
	}
	r.Attrs(put)
	message := r.Message
	if worker := fields["PITVISOR_WORKER"]; worker != "" {
		message = worker + ": " + message
	}
	// `systemctl status` shows no other field.
	if said := strings.Split(fields["PITVISOR_STDERR"], "\n"); said[0] != "" {
		message += "; its last line: " + string(printable([]byte(said[len(said)-1])))
	}
	if hint := fields["PITVISOR_HINT"]; hint != "" {
		message += "; hint: " + hint
	}
	return h.socket.send(message, journalPriority(r.Level), fields)
}

func journalPriority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{level: h.level, attrs: append(append([]slog.Attr{}, h.attrs...), attrs...), socket: h.socket}
}

func (h *journalHandler) WithGroup(string) slog.Handler { return h } // groups are not used here
