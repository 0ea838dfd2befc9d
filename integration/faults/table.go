package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// Line is a row that has run.
type Line struct {
	Row
	Runs    int
	Took    time.Duration
	Skipped string // why it could not be had
	Result
}

// Go runs a row in a world of its own.
func (row Row) Go(ctx context.Context, binary string, full bool, log func(string, ...any)) (line Line, err error) {
	line.Row = row
	dir, err := os.MkdirTemp("", "heartline-faults-")
	if err != nil {
		return line, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left there is nobody's
	began := time.Now()
	w, err := NewWorld(ctx, binary, dir, log, row.Env...)
	if err != nil {
		return line, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	size := row.Short
	if full {
		size = row.Full
	}
	err = row.Run(w, size, full)
	if skip := errSkip(""); errors.As(err, &skip) {
		line.Skipped = string(skip)
		return line, nil
	}
	if err == nil {
		line.Result, err = w.Check()
	}
	line.Runs, line.Took = max(1, w.Runs), time.Since(began)
	if err != nil && w.Program != nil {
		if r := w.Program.current(); r != nil {
			err = fmt.Errorf("%w\nthe program's last words:\n%s", err, r.log())
		}
	}
	return line, err
}

// Print writes the table.
func Print(out io.Writer, lines []Line) error {
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.AlignRight|tabwriter.Debug)
	row := func(cells ...any) {
		text := make([]string, len(cells))
		for i, c := range cells {
			text[i] = " " + fmt.Sprint(c)
		}
		fmt.Fprintln(t, "\t"+strings.Join(text, "\t")+"\t") // tabwriter keeps the error for Flush
	}
	row("fault", "runs", "accepted", "acked", "expired", "superseded", "cancelled", "messages", "unaccounted for", "duplicates in a connection", "order violations", "pushes above one")
	row("---", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:")
	var sum Result
	runs := 0
	for _, l := range lines {
		if l.Skipped != "" {
			row(l.Name, "skipped: "+l.Skipped, "", "", "", "", "", "", "")
			continue
		}
		row(l.Name, l.Runs, l.Accepted, l.Acked, l.Expired, l.Superseded, l.Cancelled, l.Messages, l.Unaccounted, l.Duplicates, l.Disorder, l.Pushes)
		sum.Add(l.Result)
		runs += l.Runs
	}
	row("all", runs, sum.Accepted, sum.Acked, sum.Expired, sum.Superseded, sum.Cancelled, sum.Messages, sum.Unaccounted, sum.Duplicates, sum.Disorder, sum.Pushes)
	return t.Flush()
}
