// Package suggest finds the word that was probably meant.
//
// It is not for words that are used by mistake for others: it compares letters.
package suggest

import "strings"

// Word returns the one of words that is spelt most like found, or "" if none is
// close.
func Word(found string, words []string) string {
	best, bestDistance := "", 4
	if len(found) > 40 {
		return ""
	}
	for _, word := range words {
		limit := max(1, min(3, len(word)/3))
		if n := distance(Plain(found), Plain(word)); n <= limit && n < bestDistance {
			best, bestDistance = word, n
		}
	}
	return best
}

// Plain makes spellings alike that differ in case and separators only.
func Plain(word string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(word))
}

// distance counts the letters to insert, delete, replace, or swap with their neighbour.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
