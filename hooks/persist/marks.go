package persist

// marks are the entries that have changed and are not written yet. The accounts take
// turns: one that changes much delays its own changes and nobody else's. The Keeper's
// mutex is held in all methods.
type marks struct {
	accounts map[string]*accountMarks // those that have marks
	turns    []*accountMarks          // the same; the first is next
	count    int
}

// accountMarks are the marks of an account, oldest first. A mark is there once, however
// often its entry changes.
type accountMarks struct {
	account string
	queue   []mark
	set     map[mark]struct{}
	share   int // what is left of the turn, in bytes
	bytes   int // about the memory that the marks take
}

// markOverhead is about the memory that a mark takes in addition to its names.
const markOverhead = 200

func (k *mark) size() int { return markOverhead + len(k.client) + len(k.name) }

// turnBytes is how much of one account is written before the next one has its turn.
const turnBytes = 64 << 10

func (m *marks) add(account string, k mark) {
	a := m.accounts[account]
	if a == nil {
		a = &accountMarks{account: account, set: map[mark]struct{}{}, share: turnBytes}
		m.accounts[account] = a
		m.turns = append(m.turns, a)
	}
	if _, known := a.set[k]; known {
		return
	}
	a.set[k] = struct{}{}
	a.queue = append(a.queue, k)
	a.bytes += k.size()
	m.count++
}

// next takes the next mark out. ok is false where there is none.
func (m *marks) next() (account string, k mark, ok bool) {
	if len(m.turns) == 0 {
		return "", mark{}, false
	}
	a := m.turns[0]
	k = a.queue[0]
	a.queue[0] = mark{} // the array lives on
	a.queue = a.queue[1:]
	delete(a.set, k)
	a.bytes -= k.size()
	m.count--
	if len(a.queue) == 0 {
		delete(m.accounts, a.account)
		m.turns[0] = nil
		m.turns = m.turns[1:]
	}
	return a.account, k, true
}

// spend charges an account for a mark that next has returned. Where the account's share is
// used up, the others have their turn.
func (m *marks) spend(account string, bytes int) {
	a := m.accounts[account]
	if a == nil {
		return
	}
	if a.share -= bytes; a.share > 0 || m.turns[0] != a {
		return
	}
	a.share = turnBytes
	m.turns = append(m.turns[1:], a)
}
