package delivery

import "time"

// SetWall lets the core see that the wall clock was set forward.
func (c *Core) SetWall(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock.offset -= int64(by)
}

// Crash ends the core as a kill would: nothing is flushed, nobody is waited for.
func (c *Core) Crash() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.stopped = true
	if c.pushing == 0 {
		close(c.noPushing)
	}
	c.pending = pending{}
	c.mu.Unlock()
	c.cancel()
	close(c.quit)
	c.loops.Wait()
	c.observers.close()
	close(c.stopDone)
}
