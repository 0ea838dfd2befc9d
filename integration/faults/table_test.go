package faults

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// Line is a row that has run.
type Line struct {
	Row
	Runs    int
	Took    time.Duration
	Skipped string // why it could not be had
	Notes   []string
	Result
}

// Go runs a row in a world of its own.
func (row Row) Go(ctx context.Context, binary string, full bool, log func(string, ...any)) (line Line, err error) {
	line.Row = row
	dir, err := os.MkdirTemp("", "heartline-faults-")
	if err != nil {
		return line, err
	}
	defer os.RemoveAll(dir) // what is left there is nobody's
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
	line.Runs, line.Took, line.Notes = max(1, w.Runs), time.Since(began), w.Notes
	if err != nil && w.Program != nil {
		if r := w.Program.current(); r != nil {
			err = fmt.Errorf("%w\nthe program's last words:\n%s", err, r.log())
		}
	}
	return line, err
}

// Print writes the table as docs/faults.md has it.
func Print(out io.Writer, lines []Line) error {
	b := bufio.NewWriter(out)
	row := func(cells ...any) {
		for _, c := range cells {
			fmt.Fprint(b, "| ", c, " ") // bufio keeps the error for Flush
		}
		fmt.Fprintln(b, "|")
	}
	row("fault", "runs", "accepted", "acked", "expired", "superseded", "cancelled", "messages", "unaccounted for", "duplicates in a connection", "order violations", "pushes above one")
	row("---", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:")
	counts := func(name string, runs int, r Result) {
		row(name, runs, r.Accepted, r.Acked, r.Expired, r.Superseded, r.Cancelled, r.Messages, r.Unaccounted, r.Duplicates, r.Disorder, r.Pushes)
	}
	var sum Result
	runs := 0
	for _, l := range lines {
		if l.Skipped != "" {
			row(l.Name, "skipped: "+l.Skipped, "", "", "", "", "", "", "", "", "", "")
			continue
		}
		counts(l.Name, l.Runs, l.Result)
		sum.Add(l.Result)
		runs += l.Runs
	}
	counts("all", runs, sum)
	return b.Flush()
}

// Origin says what the table was measured on: the program's commit, and where.
func Origin(binary string, took time.Duration) (string, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", err
	}
	commit, changed := "that is not known", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " and changes that were not committed"
		}
	}
	return fmt.Sprintf("Measured on %s by `make faults`, in %s on %d cores, all rows on one build: commit %s%s, %s.\n",
		time.Now().UTC().Format(time.DateOnly), took.Round(time.Minute), runtime.NumCPU(), commit, changed, info.GoVersion), nil
}

// The table stands between these in a page.
const (
	pageBegin = "<!-- make faults writes from here -->\n"
	pageEnd   = "<!-- to here -->\n"
)

// WritePage puts a table into a page that has one.
func WritePage(file, table string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(page), pageBegin)
	_, after, ok2 := strings.Cut(rest, pageEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table: no %q with %q after it", file, pageBegin, pageEnd)
	}
	return os.WriteFile(file, []byte(before+pageBegin+table+pageEnd+after), 0o644) // as git has it
}
