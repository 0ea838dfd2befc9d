package cmd

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// table writes rows in columns; the first row is the heading. text/tabwriter would
// end a column at each row that has nothing in it.
func (p *program) table(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], cells(row[i]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-cells(cell)+2))
		}
		fmt.Fprintln(p.Stdout, strings.TrimRight(line.String(), " "))
	}
}

// cells is how many columns of a terminal a text takes: a Chinese character takes two, a
// combining accent none. A locale does not change that, so that output is the same
// everywhere.
func cells(s string) int { return (&runewidth.Condition{StrictEmojiNeutral: true}).StringWidth(s) }

// plain keeps what devices and backends have named from steering the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != ' ' {
			return '\uFFFD'
		}
		return r
	}, s)
}

// minute is a time of today, to the second.
func (p *program) minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.local).Format("15:04:05")
}

// clock is a time of today, to the millisecond that events are kept at.
func (p *program) clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.local).Format("15:04:05.000")
}

// date is a time of any day.
func (p *program) date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.local).Format("2006-01-02 15:04:05 -07:00")
}

// since is how long after start t was.
func since(start, t time.Time) string {
	if start.IsZero() || t.IsZero() {
		return ""
	}
	d := t.Sub(start)
	sign := "+"
	if d < 0 {
		sign, d = "-", -d
	}
	if d < time.Minute {
		return fmt.Sprintf("%s%d.%03ds", sign, d/time.Second, d%time.Second/time.Millisecond)
	}
	return sign + d.Truncate(time.Second).String()
}

// ago is how long before now t was, roughly.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}
