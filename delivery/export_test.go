package delivery

import "time"

// SetWall lets the core see that the wall clock was set forward.
func (c *Core) SetWall(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock.offset -= int64(by)
}

// Crash ends the core as a kill would: nothing is flushed, nobody is waited for.
func (c *Core) Crash() { c.Abandon() }
