package h2pool

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

// TestPoll: data from the network is read although other goroutines are always
// runnable.
func TestPoll(t *testing.T) {
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
	others := func() { // let each goroutine run
		for range 200 {
			runtime.Gosched()
		}
	}

	var n Netpoller
	defer n.Close()
	n.Poll() // makes the pipe
	for ack := range int32(3) {
		others() // readers block
		if _, err := device.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // one poll begins, the next waits for it
			n.began = time.Time{}
			n.Poll()
		}
		others()
		if acks.Load() != ack+1 {
			t.Fatal("an ack in the socket was not read")
		}
	}
}

func TestPollAfterClose(t *testing.T) {
	var n Netpoller
	n.Poll()
	n.Close()
	n.began = time.Time{}
	n.Poll()
	if _, err := n.pipe.r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the pipe is open: %v", err)
	}
}
