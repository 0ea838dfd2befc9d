package fallback

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestGatherWritesTogetherWhatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe() // takes a write when it is read
		g := gather(ours)
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

// TestGatherIsBounded: a connection that takes nothing is found by the Write that
// does not return, and closed when its time is over.
func TestGatherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := gather(ours)
		began := time.Now()
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		written := 0
		var err error
		for err == nil {
			var n int
			n, err = g.Write(chunk)
			written += n
		}
		if took := time.Since(began); took != writeTimeout || written > 3*gatherLimit {
			t.Errorf("%d bytes were taken, the failure came after %v: %v", written, took, err)
		}
		if _, err := ours.Read(make([]byte, 1)); err == nil {
			t.Error("who reads does not learn of it")
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestGatherCloseDoesNotHang where nobody takes what is left.
func TestGatherCloseDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := gather(ours)
		if _, err := g.Write([]byte(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_ = g.Close() // of the pipe's deadline
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		wrote := make([]func(), 0, 3*cap(turns))
		take := func() (ended func()) {
			ctx, end := turns.take(context.Background())
			if trace := httptrace.ContextClientTrace(ctx); trace != nil {
				wrote = append(wrote, func() { trace.WroteRequest(httptrace.WroteRequestInfo{}) })
			}
			return end
		}
		began := time.Now()
		ends := make([]func(), cap(turns))
		for i := range ends {
			ends[i] = take()
		}
		if time.Since(began) != 0 {
			t.Error("the first had to wait")
		}
		wrote[0]()
		ends[0]() // again
		take()
		if time.Since(began) != 0 {
			t.Error("a request that was written kept its turn")
		}
		take() // nobody ends
		if waited := time.Since(began); waited != maxTurn {
			t.Errorf("waited %v behind requests that cannot be written", waited)
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		before := time.Now()
		if turns.take(over); time.Since(before) != 0 {
			t.Error("a request that is not wanted any more waited for its turn")
		}
		for _, end := range ends {
			end()
		}
		if len(turns) != 1 { // that of the second take
			t.Errorf("%d turns are taken", len(turns))
		}
	})
}
