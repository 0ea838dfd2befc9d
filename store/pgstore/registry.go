package pgstore

import (
	"bytes"
	"crypto/sha256"
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

// claims are the tokens that a batch claims, each with the last device to do so.
func claims(put []delivery.Device) map[string]string {
	out := map[string]string{}
	for i := range put {
		for _, r := range put[i].Registrations {
			if r.Claims {
				out[hashOf(r.Server, r.Token)] = put[i].ID
			}
		}
	}
	return out
}

// lookAtRegistry queues the claims of tokens and the reading of all entries that the
// batch may change: those that it names, and those that lose a token. A token is claimed
// before any entry is locked, in the order of the hashes, and entries in the order of the
// IDs, so that two nodes never wait for each other over the same ones.
func (e *Engine) lookAtRegistry(q *pgx.Batch, p *plan, r *found) {
	claimed := claims(p.putDevices)
	var hashes, holders, ids [][]byte
	for _, hash := range slices.Sorted(maps.Keys(claimed)) {
		hashes, holders = append(hashes, []byte(hash)), append(holders, []byte(claimed[hash]))
	}
	for i := range p.putDevices {
		ids = append(ids, []byte(p.putDevices[i].ID))
	}
	for _, id := range p.removeDevices {
		ids = append(ids, []byte(id))
	}
	if len(hashes) > 0 {
		q.Queue(e.db.sql.claimTokens, hashes, holders)
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
	for _, id := range p.removeDevices {
		unlink(id)
		delete(r.devices, id)
		touched[id] = true
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
