package xmpp

// Idle reports whether nothing waits for the store, so that all stanzas that were read have
// been handled.
func (g *Gate) Idle() bool {
	for _, l := range []*lanes{&g.calls, &g.reads} {
		l.mu.Lock()
		running := l.running
		l.mu.Unlock()
		if running > 0 {
			return false
		}
	}
	return true
}
