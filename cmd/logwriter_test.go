package cmd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
)

// TestLogReaderHangs: a server whose log nobody reads goes on. When its reader comes back it
// gets the first records in order, and the number of those that were dropped.
func TestLogReaderHangs(t *testing.T) {
	const records = 40_000
	reader, writer := io.Pipe()
	logged, come := make(chan struct{}), make(chan struct{})
	s := start(t, func(p *program) {
		p.Stderr = writer
		p.logPatience = time.Millisecond
		p.serve = func(_ context.Context, _ *config.Config, opts ServeOptions) error {
			for i := range records {
				opts.Log.Info("a record", "number", i)
			}
			close(logged)
			<-come
			opts.Log.Info("the last record")
			return nil
		}
	}, nil, "serve")
	expect(t, "the records", logged)
	lines := bufio.NewScanner(reader)
	n, dropped := 0, false
	for lines.Scan() && !strings.Contains(lines.Text(), "the last record") {
		switch line := lines.Text(); {
		case strings.Contains(line, `msg="a record"`):
			if !strings.HasSuffix(line, "number="+strconv.Itoa(n)) {
				t.Fatalf("record %d is %q", n, line)
			}
			n++
		case strings.Contains(line, "records of the log dropped"):
			dropped = strings.HasSuffix(line, "records="+strconv.Itoa(records-n))
			close(come)
		default:
			t.Fatalf("unexpected: %q", line)
		}
	}
	if n == 0 || n == records || !dropped {
		t.Errorf("%d of %d records came; the number of the others was told: %v", n, records, dropped)
	}
	if code := expect(t, "the end", s.code); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestLogReaderHangsAtTheEnd: a server that fails while nobody reads its log ends.
func TestLogReaderHangsAtTheEnd(t *testing.T) {
	reader, writer := io.Pipe()
	s := start(t, func(p *program) {
		p.Stderr = writer
		p.logPatience = time.Millisecond
		p.serve = func(_ context.Context, _ *config.Config, opts ServeOptions) error {
			opts.Log.Info("nobody reads this")
			return errors.New("the listener failed")
		}
	}, nil, "serve")
	if code := expect(t, "the end", s.code); code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	if err := reader.Close(); err != nil { // the writes end
		t.Fatal(err)
	}
}

// TestLogIsWritten: a record is written when the call that logs it returns, and closing waits for
// a reader that takes nothing for a moment only.
func TestLogIsWritten(t *testing.T) {
	handler := func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }
	out := newSignalled()
	w := newLogWriter(out, time.Minute, handler)
	log := slog.New(handler(w))
	for _, want := range []string{"one", "two"} {
		if log.Info(want); !strings.HasSuffix(out.String(), "msg="+want+"\n") {
			t.Errorf("%s is not written: %q", want, out)
		}
	}
	w.close()
	log.Info("three")
	if strings.Contains(out.String(), "three") {
		t.Error("a record is written after close")
	}

	reader, writer := io.Pipe()
	w = newLogWriter(writer, time.Millisecond, handler)
	slog.New(handler(w)).Info("nobody reads this")
	w.close()
	if err := reader.Close(); err != nil { // the write ends
		t.Fatal(err)
	}
	<-w.ended
}
