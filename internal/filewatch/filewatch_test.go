package filewatch_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/internal/filewatch"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAChangeIsNoticedHoweverItIsMade(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "one")
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	n := 0
	w := filewatch.New(slog.New(slog.DiscardHandler))
	w.Add("key", func() error { n++; return nil }, path)
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"longer", func() { write(t, path, "three"); _ = os.Chtimes(path, at, at) }},
		{"renamed over with equal size and time", func() {
			write(t, path+".new", "seven")
			_ = os.Chtimes(path+".new", at, at)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed", func() { _ = os.Remove(path) }},
		{"back", func() { write(t, path, "back") }},
	} {
		before := n
		w.Check()
		if n != before {
			t.Errorf("before %s: a change was reported without one", c.name)
		}
		c.change()
		if w.Check(); n != before {
			t.Errorf("%s: taken up at once, perhaps in the middle of a write", c.name)
		}
		w.Check()
		if n != before+1 {
			t.Errorf("%s: %d calls", c.name, n-before)
		}
	}
	w.Stop()
}

// TestHalfAFile: a file that is written in pieces is taken up when it is whole. One that is
// never left alone is taken up all the same, now and then.
func TestHalfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	var taken []string
	w := filewatch.New(slog.New(slog.DiscardHandler))
	w.Add("key", func() error {
		text, err := os.ReadFile(path)
		taken = append(taken, string(text))
		return err
	}, path)
	for _, part := range []string{"t", "th", "three"} { // whose size tells it from the first, too
		write(t, path, part)
		w.Check()
	}
	w.Check()
	w.Check()
	if !slices.Equal(taken, []string{"three"}) {
		t.Errorf("took up %q", taken)
	}
	taken = nil
	for i := range 40 {
		write(t, path, strings.Repeat("x", 4+i))
		w.Check()
	}
	if len(taken) != 4 {
		t.Errorf("took up %d of 40 changes, want 4", len(taken))
	}
}

// TestAFailedReloadIsRepeated: what makes a file readable again, such as another owner,
// leaves its time, its size and its identity as they are. The log has each error once.
func TestAFailedReloadIsRepeated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	var fault error
	n := 0
	var lines bytes.Buffer
	w := filewatch.NewEvery(time.Hour, slog.New(slog.NewTextHandler(&lines, nil))) // no attempt takes as long
	w.Add("the.key", func() error { n++; return fault }, path)
	logged := func(want int) {
		t.Helper()
		if got := strings.Count(lines.String(), `msg="reload failed, keeping the previous version" key=the.key`); got != want {
			t.Errorf("%d lines of the log, want %d:\n%s", got, want, &lines)
		}
	}
	write(t, path, "longer")
	fault = errors.New("permission denied")
	w.Check() // finds the change
	for range 3 {
		w.Check()
	}
	if n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
	logged(1)
	fault = errors.New("line 3 is broken")
	w.Check()
	logged(2)
	fault = nil
	w.Check()
	w.Check()
	if n != 5 {
		t.Errorf("%d attempts, want 5: the last but one has succeeded", n)
	}
	logged(2)
	write(t, path, "longest of all")
	fault = errors.New("line 3 is broken")
	w.Check()
	w.Check()
	logged(3)
}

// TestAnExpensiveReloadIsRepeatedSeldom: a large file with a mistake takes a small part of a processor.
func TestAnExpensiveReloadIsRepeatedSeldom(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		write(t, path, "one")
		n := 0
		w := filewatch.New(slog.New(slog.DiscardHandler))
		w.Add("key", func() error { n++; time.Sleep(2 * time.Second); return errors.New("broken") }, path)
		write(t, path, "longer")
		for range 40 {
			w.Check()
		}
		if n != 2 {
			t.Errorf("%d attempts of 2 s in 40 s, want 2", n)
		}
	})
}

// TestReload reads all files, changed or not, and reports what fails.
func TestReload(t *testing.T) {
	one, two := errors.New("one"), errors.New("two")
	w := filewatch.New(slog.New(slog.DiscardHandler))
	n := 0
	w.Add("one", func() error { n++; return one }, "/nowhere")
	w.Add("two", func() error { n++; return two }, "/nowhere", "/elsewhere")
	if err := w.Reload(nil); !errors.Is(err, one) || !errors.Is(err, two) {
		t.Errorf("got %v", err)
	}
	if err := w.Reload(func(key string) bool { return key == "one" }); errors.Is(err, one) || !errors.Is(err, two) {
		t.Errorf("without one: %v", err)
	}
	one, two = nil, nil
	if err := w.Reload(nil); err != nil {
		t.Error(err)
	}
	if w.Check(); n != 5 {
		t.Errorf("%d reloads, want 5", n)
	}
}

func TestLifecycle(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	w := filewatch.New(log)
	w.Stop() // never started
	w.Start()
	w.Stop()

	path := filepath.Join(t.TempDir(), "file")
	called := make(chan struct{}, 1)
	w = filewatch.NewEvery(time.Millisecond, log)
	w.Add("key", func() error { called <- struct{}{}; return nil }, path)
	w.Start()
	w.Start()
	write(t, path, "x")
	<-called
	var stops sync.WaitGroup
	for range 2 {
		stops.Go(w.Stop)
	}
	stops.Wait()
	w.Stop()
}
