package hooks

import (
	"runtime"
	"sync"
)

// turns bounds how many publishes of one account are routed at the same time: on all
// cores but one, and on at least one. However many connections an account publishes on,
// and however many receivers each message has, a core is left to the others. An account
// without traffic has no entry.
type turns struct {
	slots    int
	mu       sync.Mutex
	accounts map[string]*accountTurns
}

type accountTurns struct {
	users int // that wait or have a slot
	slots chan struct{}
}

func newTurns() *turns {
	return &turns{slots: max(1, runtime.GOMAXPROCS(0)-1), accounts: map[string]*accountTurns{}}
}

// take waits for a slot of an account. The caller must call the returned function soon,
// and must not wait for a client meanwhile.
func (t *turns) take(account string) (done func()) {
	t.mu.Lock()
	a := t.accounts[account]
	if a == nil {
		a = &accountTurns{slots: make(chan struct{}, t.slots)}
		t.accounts[account] = a
	}
	a.users++
	t.mu.Unlock()
	a.slots <- struct{}{}
	return func() {
		<-a.slots
		t.mu.Lock()
		defer t.mu.Unlock()
		if a.users--; a.users == 0 {
			delete(t.accounts, account)
		}
	}
}
