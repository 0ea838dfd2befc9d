package delivery

import "github.com/cespare/xxhash/v2"

// versions tells whether a read of the store outside the mutex is still true. It
// counts the changes of the registry, by account, device and token; two
// names may share a counter, which costs a second read at worst. A change counts
// when it is committed, and again when the store has it.
type versions [512]uint32

func slot(name string) uint16 { return uint16(xxhash.Sum64String(name) % uint64(len(versions{}))) }

func (v *versions) of(name string) uint32 { return v[slot(name)] }

// address is who holds a registration: one device at a time.
type address struct{ server, token string }

func (r *Registration) address() address { return address{r.Server, r.Token} }

func (a address) String() string { return a.server + "\x00" + a.token }
