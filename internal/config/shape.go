package config

import "time"

// The functions here make keys of the common kinds, each with its schema. They take
// the rest of a key, and what to do with a value that is right.

func yesNo[T any](k key[T], set func(to T, b bool)) key[T] {
	k.Type = "boolean"
	k.set = func(d *decoder, e *entry, to T) {
		if b, ok := d.boolean(e); ok {
			set(to, b)
		}
	}
	return k
}

func whole[T any](k key[T], least, most int64, set func(to T, n int)) key[T] {
	k.Type, k.schema = "whole number", wholeSchema(least, most)
	k.set = func(d *decoder, e *entry, to T) {
		if n, ok := d.whole(e, least, most); ok {
			set(to, int(n))
		}
	}
	return k
}

func number[T any](k key[T], least, most float64, set func(to T, f float64)) key[T] {
	k.Type, k.schema = "number", orVariable(schema{"type": "number", "minimum": least, "maximum": most})
	k.set = func(d *decoder, e *entry, to T) {
		if f, ok := d.float(e, least, most); ok {
			set(to, f)
		}
	}
	return k
}

func oneWord[T any](k key[T], words []string, set func(to T, i int)) key[T] {
	k.Type, k.schema = oneOfType(words), orVariable(schema{"enum": words})
	k.set = func(d *decoder, e *entry, to T) {
		if i, ok := d.choice(e, words...); ok {
			set(to, i)
		}
	}
	return k
}

// lasting makes a key of a length of time; most 0 means that "infinity" is allowed and
// told as 0.
func lasting[T any](k key[T], least, most time.Duration, set func(to T, t time.Duration)) key[T] {
	k.Type = "duration"
	if most == 0 {
		k.schema = schema{"anyOf": []any{ref("duration"), schema{"const": "infinity"}}}
	}
	k.set = func(d *decoder, e *entry, to T) {
		if t, ok := d.duration(e, least, most); ok {
			set(to, t)
		}
	}
	return k
}
