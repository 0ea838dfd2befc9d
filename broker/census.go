package broker

import (
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// census counts what only a read of the whole store can tell. A scrape that finds the
// last count too old starts the next one and does not wait for it, so that neither the
// rate of the scrapes nor the size of the store costs more than a hundredth of a core.
type census struct {
	outbox delivery.Reader

	mu      sync.Mutex
	last    count
	running bool
	stopped bool
	wg      sync.WaitGroup
}

// count is one census.
type count struct {
	at      time.Time // when it ended; zero: none has
	took    time.Duration
	devices int
	waiting int          // deliveries in the state waiting
	oldest  delivery.Seq // of those; 0: none
}

const (
	censusEvery = 10 * time.Second // at most
	censusShare = 100              // and one part in so many of the time
)

func (c *census) read() count {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running && !c.stopped && time.Since(c.last.at) >= max(censusEvery, censusShare*c.last.took) {
		c.running = true
		c.wg.Go(c.take)
	}
	return c.last
}

func (c *census) take() {
	began := time.Now()
	var n count
	err := c.outbox.Devices("", func(*delivery.Device) bool {
		n.devices++
		return n.devices%1024 != 0 || !c.stopping()
	})
	if err == nil {
		seen := 0
		err = c.outbox.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool {
			if r.State == delivery.StateWaiting {
				n.waiting++
				if n.oldest == 0 || r.Seq < n.oldest {
					n.oldest = r.Seq
				}
			}
			seen++
			return seen%1024 != 0 || !c.stopping()
		})
	}
	n.at, n.took = time.Now(), time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	if err == nil && !c.stopped { // a store that fails has metrics of its own
		c.last = n
	}
}

func (c *census) stopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// stop ends a count that runs and waits for it. It is safe on a nil census, and twice.
func (c *census) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.wg.Wait()
}
