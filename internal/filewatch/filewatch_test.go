package filewatch_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/internal/filewatch"
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
	w := filewatch.New()
	w.Add(path, func() { n++ })
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
		w.Check()
		if n != before+1 {
			t.Errorf("%s: %d calls", c.name, n-before)
		}
	}
	w.Stop()
}

func TestLifecycle(t *testing.T) {
	w := filewatch.New()
	w.Stop() // never started
	w.Start()
	w.Stop()

	path := filepath.Join(t.TempDir(), "file")
	called := make(chan struct{}, 1)
	w = filewatch.NewEvery(time.Millisecond)
	w.Add(path, func() { called <- struct{}{} })
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
