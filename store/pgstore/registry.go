package pgstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// hashOf is the key of a push token.
func hashOf(server, token string) string {
	sum := sha256.Sum256(codec.AppendName(nil, server+"\x00"+token))
	return string(sum[:16])
}

// lookAtRegistry queues the claims of tokens and the reading of all entries that the
// batch may change: those that it names, and those that lose a token. A token is claimed
// before any entry is locked, in the order of the hashes, and entries in the order of the
// IDs, so that two nodes never wait for each other over the same ones.
//
// New entries are written first, and filled in later: so two nodes that register one device
// at the same moment wait for each other here, and the later finds the entry of the first. If
// that is another account's, its tokens are not claimed.
func (e *Engine) lookAtRegistry(q *pgx.Batch, p *plan, r *found) {
	var hashes, holders, accounts, ids [][]byte
	fresh := map[string]*delivery.Device{}
	for i := range p.putDevices {
		d := &p.putDevices[i]
		ids = append(ids, []byte(d.ID))
		if fresh[d.ID] == nil {
			fresh[d.ID] = d
		}
		for _, reg := range d.Registrations {
			if reg.Claims { // the last that may has it
				hashes, holders, accounts = append(hashes, []byte(hashOf(reg.Server, reg.Token))), append(holders, []byte(d.ID)), append(accounts, []byte(d.Account))
			}
		}
	}
	if len(fresh) > 0 {
		var names, of, entries [][]byte
		for _, id := range slices.Sorted(maps.Keys(fresh)) {
			names, of = append(names, []byte(id)), append(of, []byte(fresh[id].Account))
			entries = append(entries, codec.AppendDevice(nil, &delivery.Device{ID: id, Account: fresh[id].Account}))
		}
		q.Queue(e.db.sql.newDevices, names, of, entries)
	}
	for _, k := range p.removeDevices {
		ids = append(ids, []byte(k.ID))
	}
	if len(hashes) > 0 {
		q.Queue(e.db.sql.claimTokens, hashes, holders, accounts)
	}
	q.Queue(e.db.sql.lockDevices, ids, hashes).Query(func(rows pgx.Rows) error {
		var id, account, entry []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &account, &entry}, func() error {
			d := new(delivery.Device)
			if err := codec.DecodeDevice(d, string(id), entry); err != nil {
				return fmt.Errorf("device %s: %w", id, err)
			}
			r.devices[d.ID] = d
			return nil
		})
		return err
	})
}

// errVanished says that an entry of another account went away in the midst of a write, which
// is to begin again.
var errVanished = errors.New("an entry of the registry has been removed by another node")

// registry queues the changes of the registry: it makes them on the entries that were
// read, and writes the changed ones.
func (e *Engine) registry(q *pgx.Batch, p *plan, r *found) error {
	if len(p.putDevices) == 0 && len(p.removeDevices) == 0 {
		return nil
	}
	before := maps.Clone(r.devices)
	holder := map[string]string{} // of each token, as far as the batch names it
	for id, d := range r.devices {
		for _, reg := range d.Registrations {
			if reg.Token != "" {
				holder[hashOf(reg.Server, reg.Token)] = id
			}
		}
	}
	unlink := func(id string) {
		if d := r.devices[id]; d != nil {
			for _, reg := range d.Registrations {
				if h := hashOf(reg.Server, reg.Token); holder[h] == id {
					delete(holder, h)
				}
			}
		}
	}
	touched := map[string]bool{}
	for i := range p.putDevices {
		if r.devices[p.putDevices[i].ID] == nil { // removed by another node before it was locked
			return errVanished
		}
		d := p.putDevices[i].Written(r.devices[p.putDevices[i].ID])
		unlink(d.ID)
		for _, reg := range d.Registrations {
			if reg.Token == "" {
				continue
			}
			h := hashOf(reg.Server, reg.Token)
			if other := r.devices[holder[h]]; other != nil && other.ID != d.ID {
				c := other.Clone()
				c.RemoveRegistrations(func(x *delivery.Registration) bool { return x.Server == reg.Server && x.Token == reg.Token })
				r.devices[c.ID] = &c
				touched[c.ID] = true
			}
			holder[h] = d.ID
		}
		r.devices[d.ID] = &d
		touched[d.ID] = true
	}
	for _, k := range p.removeDevices {
		if d := r.devices[k.ID]; d != nil && d.Account == k.Account {
			unlink(k.ID)
			delete(r.devices, k.ID)
			touched[k.ID] = true
		}
	}
	var put, accounts, entries, removed, changed, kept [][]byte
	for _, id := range slices.Sorted(maps.Keys(touched)) {
		changed = append(changed, []byte(id))
		d := r.devices[id]
		if d == nil {
			if before[id] != nil {
				removed = append(removed, []byte(id))
			}
			continue
		}
		put, accounts, entries = append(put, []byte(id)), append(accounts, []byte(d.Account)), append(entries, codec.AppendDevice(nil, d))
		for _, reg := range d.Registrations {
			if reg.Token == "" {
				continue
			}
			if h := hashOf(reg.Server, reg.Token); holder[h] == id {
				kept = append(kept, []byte(h))
			}
		}
	}
	slices.SortFunc(kept, bytes.Compare)
	s := &e.db.sql
	q.Queue(s.freeTokens, changed, nonNil(kept))
	if len(removed) > 0 {
		q.Queue(s.removeDevices, removed)
	}
	if len(put) > 0 {
		q.Queue(s.putDevices, put, accounts, entries)
	}
	return nil
}

// nonNil: an array that is NULL compares with nothing.
func nonNil(b [][]byte) [][]byte {
	if b == nil {
		return [][]byte{}
	}
	return b
}
