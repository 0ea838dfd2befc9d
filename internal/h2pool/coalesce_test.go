package h2pool

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestCoalesce(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		ours, theirs := net.Pipe() // a write ends when it is read
		g := coalesce(ours)
		write := func(s string) {
			t.Helper()
			if n, err := g.Write([]byte(s)); n != len(s) || err != nil {
				t.Fatalf("write %q: %d, %v", s, n, err)
			}
		}
		write("a")
		synctest.Wait() // "a" is being written
		for _, s := range []string{"b", "c", "d"} {
			write(s)
		}
		b := make([]byte, 16)
		for _, want := range []string{"a", "bcd"} {
			if n, err := theirs.Read(b); string(b[:n]) != want || err != nil {
				t.Errorf("one write brought %q, %v; want %q", b[:n], err, want)
			}
		}
		write("last")
		closed := make(chan error, 1)
		go func() { closed <- g.Close() }()
		if rest, err := io.ReadAll(theirs); string(rest) != "last" || err != nil {
			t.Errorf("at the close came %q, %v", rest, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
	})
}

// TestCoalesceIsBounded: on a connection that accepts nothing, Write blocks, and the
// connection is closed after writeTimeout.
func TestCoalesceIsBounded(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := coalesce(ours)
		began := time.Now()
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		written := 0
		var err error
		for err == nil {
			var n int
			n, err = g.Write(chunk)
			written += n
		}
		if took := time.Since(began); took != writeTimeout || written > 3*bufferLimit {
			t.Errorf("%d bytes were taken, the failure came after %v: %v", written, took, err)
		}
		if _, err := ours.Read(make([]byte, 1)); err == nil {
			t.Error("the reader does not get an error")
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCoalesceCloseDoesNotHang where the peer does not read.
func TestCoalesceCloseDoesNotHang(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := coalesce(ours)
		if _, err := g.Write([]byte(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_ = g.Close() // the pipe's deadline
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}
