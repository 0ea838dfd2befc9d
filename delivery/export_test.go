package delivery

// Crash ends the core as a kill would: nothing is flushed, nobody is waited for.
func (c *Core) Crash() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.stopped = true
	c.pending = pending{}
	c.mu.Unlock()
	c.cancel()
	close(c.quit)
	c.loops.Wait()
	c.observers.close()
}
