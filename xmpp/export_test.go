package xmpp

// Idle reports whether nothing waits for the store, so that all stanzas that were read have
// been handled.
func (g *Gate) Idle() bool {
	g.calls.mu.Lock()
	defer g.calls.mu.Unlock()
	return g.calls.running == 0
}
