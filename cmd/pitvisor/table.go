package main

import "strings"

// table prints columns that are aligned, with colours that do not count. A row of one
// cell is a line of its own, which no column has to be as wide as.
type table struct {
	paint painter
	rows  [][]cell
}

type cell struct {
	text  string
	style style
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// head adds a line of titles.
func (t *table) head(titles ...string) {
	var cells []cell
	for _, title := range titles {
		cells = append(cells, cell{title, styleDim})
	}
	t.add(cells...)
}

func (t *table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if len(row) == 1 {
				break
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(c.text)))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		last := len(row) - 1
		for last > 0 && row[last].text == "" {
			last--
		}
		for i, c := range row[:last+1] {
			b.WriteString(t.paint.paint(c.style, c.text))
			if i < last {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(c.text))+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
