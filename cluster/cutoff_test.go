package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// ownedBy returns the accounts whose partitions a node owns.
func (b *base) ownedBy(m *machine) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(accounts(), func(account string) bool {
		owner := b.members[b.parts[cluster.Partition(account)%parts].Node]
		return owner == nil || owner.Name != m.name
	})
}

// Whatever is asked of an owner that has lost the database, and refuses, is answered by its
// successor or, where it recovers, by itself: the others reach the database.
func TestOwnerCutFromDatabase(t *testing.T) {
	for _, away := range []time.Duration{2 * time.Second, time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
				names := b.ownedBy(all[0])
				if len(names) == 0 {
					t.Fatal("the node owns nothing")
				}
				ids := map[string]string{}
				for _, account := range names {
					if err := all[2].router.PutDevice(t.Context(), account, "phone-"+account, nil); err != nil {
						t.Fatal(err)
					}
					r, err := all[2].router.Accept(t.Context(), delivery.Request{Account: account, Title: "before"})
					if err != nil {
						t.Fatal(err)
					}
					ids[account] = r.Notification.ID
				}
				all[0].away.Store(true)
				begun := time.Now()
				time.AfterFunc(away, func() { all[0].away.Store(false) })
				var asked sync.WaitGroup
				for _, account := range names {
					for name, ask := range map[string]func() error{
						"accept": func() error {
							for i := range 3 {
								if r, err := all[2].router.Accept(t.Context(), delivery.Request{Account: account, Title: fmt.Sprint(i)}); err != nil || r.Repeated {
									return fmt.Errorf("%+v, %w", r, err)
								}
							}
							return nil
						},
						"cancel":  func() error { return all[1].router.Cancel(t.Context(), ids[account]) },
						"dismiss": func() error { return all[2].router.Dismiss(t.Context(), ids[account]) },
						"put": func() error {
							return all[1].router.PutDevice(t.Context(), account, "pad-"+account, nil)
						},
					} {
						asked.Go(func() {
							if err := ask(); err != nil {
								t.Error(account, name, err)
							}
						})
					}
				}
				asked.Wait()
				if took := time.Since(begun); took > lease+2*time.Second {
					t.Error("answered after", took)
				}
				time.Sleep(away - time.Since(begun) + 20*time.Second)
				for _, account := range names {
					page, _, err := all[1].router.List(t.Context(), delivery.Filter{Account: account, Limit: 10})
					if err != nil || len(page) != 4 {
						t.Errorf("%s has %d notifications, want 4 (error %v)", account, len(page), err)
					}
				}
				if fenced := b.fencing > 0; fenced != (away > lease) {
					t.Errorf("%d lives ended by others", b.fencing)
				}
			})
		})
	}
}

// Where the node that is asked has lost the database itself, nothing waits.
func TestAllCutFromDatabase(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		for _, m := range all {
			m.away.Store(true)
		}
		begun := time.Now()
		for _, account := range b.ownedBy(all[0]) {
			if _, err := all[2].router.Accept(t.Context(), delivery.Request{Account: account, Title: "t"}); !errors.Is(err, delivery.ErrUnavailable) && !errors.Is(err, delivery.ErrUnknownAccount) {
				t.Error(account, err)
			}
			if err := all[2].router.PutDevice(t.Context(), account, "phone", nil); !errors.Is(err, delivery.ErrUnavailable) {
				t.Error(account, err)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Error("refused after", took)
		}
		for _, m := range all {
			m.away.Store(false)
		}
		time.Sleep(20 * time.Second)
	})
}

// A caller that gives up while the owner is cut off is not kept.
func TestCutOffOwnerIsNotWaitedForByWhoLeaves(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		account := b.ownedBy(all[0])[0]
		all[0].away.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := all[2].router.PutDevice(ctx, account, "phone", nil); err == nil || time.Since(begun) > time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		all[0].away.Store(false)
		time.Sleep(20 * time.Second)
	})
}

// A node that serves a partition may begin with its webhooks a moment later: an order is carried
// out then, and not refused because no other node serves the partition.
func TestAtOwnerThatBegins(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		part := cluster.Partition(b.ownedBy(all[0])[0]) % parts
		asked := 0
		begins := func() error {
			if asked++; asked < 3 {
				return fmt.Errorf("%w: the webhook is not taken up", delivery.ErrStopped)
			}
			return nil
		}
		err := all[0].router.AtOwner(t.Context(), part, begins, func(*relay.Session) error { return errors.New("another node was asked") })
		if err != nil || asked != 3 {
			t.Errorf("at the owner: asked %d times, error %v", asked, err)
		}
		asked = 0
		err = all[1].router.AtOwner(t.Context(), part, func() error { return errors.New("it was done here") }, func(*relay.Session) error { return begins() })
		if err != nil || asked != 3 {
			t.Errorf("at another node: asked %d times, error %v", asked, err)
		}
	})
}
