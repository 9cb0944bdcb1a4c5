package registry

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
)

// encode gives what json.Marshal gives. Marshal takes more memory for the first value of a type than all
// the rest of a one-shot command, so it is left what is not plain.
func (i *Info) encode() ([]byte, error) {
	if !i.plain() {
		return json.Marshal(i)
	}
	b := make([]byte, 0, 512)
	b = appendText(append(b, `{"id":`...), i.ID.String())
	b = appendText(append(b, `,"boot":`...), i.Boot)
	b = appendText(append(b, `,"owner":{"boot":`...), i.Owner.Boot)
	if i.Owner.Inode != 0 {
		b = strconv.AppendUint(append(b, `,"inode":`...), i.Owner.Inode, 10)
	}
	b = strconv.AppendInt(append(b, `,"pid":`...), int64(i.Owner.PID), 10)
	if i.Owner.Start != 0 {
		b = strconv.AppendUint(append(b, `,"start":`...), i.Owner.Start, 10)
	}
	b = strconv.AppendUint(append(b, `},"pidns":`...), i.PIDNS, 10)
	b = appendText(append(b, `,"kind":`...), i.Kind)
	b = appendText(append(b, `,"name":`...), i.Name)
	b = appendText(append(b, `,"version":`...), i.Version)
	b = appendTime(append(b, `,"started":`...), i.Started)
	b = i.appendLabels(b)
	if !i.Expires.IsZero() {
		b = appendTime(append(b, `,"expires":`...), i.Expires)
	}
	return append(b, '}'), nil
}

func (i *Info) appendLabels(b []byte) []byte {
	if len(i.Labels) == 0 {
		return b
	}
	begin := `,"labels":{`
	for _, key := range slices.Sorted(maps.Keys(i.Labels)) {
		b = appendText(append(b, begin...), key)
		b = appendText(append(b, ':'), i.Labels[key])
		begin = ","
	}
	return append(b, '}')
}

// plain says that nothing in the record needs an escape or cannot be encoded.
func (i *Info) plain() bool {
	for key, value := range i.Labels {
		if !plainText(key) || !plainText(value) {
			return false
		}
	}
	return !i.ID.IsZero() && plainText(i.Boot) && plainText(i.Owner.Boot) && plainText(i.Kind) && plainText(i.Name) &&
		plainText(i.Version) && plainTime(i.Started) && plainTime(i.Expires)
}

// plainText says that a text is between quotation marks in JSON what it is in Go.
func plainText(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// plainTime says that RFC 3339 can express a time.
func plainTime(t time.Time) bool {
	_, offset := t.Zone()
	return t.Year() >= 0 && t.Year() <= 9999 && offset%60 == 0 && offset > -24*60*60 && offset < 24*60*60
}

func appendText(b []byte, s string) []byte {
	return append(append(append(b, '"'), s...), '"')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}
