package fallback

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLook: what has come over the network is taken although there is always
// something else to run.
func TestLook(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	device, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	var acks atomic.Int32
	var over atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		for b := make([]byte, 1); ; acks.Add(1) {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
	for range 3 {
		running.Go(func() {
			for !over.Load() {
				runtime.Gosched()
			}
		})
	}
	defer running.Wait()
	defer func() { over.Store(true); _ = device.Close() }()
	others := func() { // each has its turn
		for range 200 {
			runtime.Gosched()
		}
	}

	var l looker
	defer l.close()
	l.look() // there is a pipe
	for ack := range int32(3) {
		others() // those who read wait
		if _, err := device.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a look that begins, and one that waits for it
			l.began = time.Time{}
			l.look()
		}
		others()
		if acks.Load() != ack+1 {
			t.Fatal("an ack that had come was not read")
		}
	}
}

func TestLookAfterClose(t *testing.T) {
	var l looker
	l.look()
	l.close()
	l.began = time.Time{}
	l.look()
	if _, err := l.pipe.r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the pipe is open: %v", err)
	}
}
