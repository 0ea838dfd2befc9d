package xmpp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// tenure is the time from TakeUp to GiveUp: the link is this process's.
type tenure struct {
	ctx    context.Context //nolint:containedctx // it is the tenure
	cancel context.CancelFunc
	kept   bool          // run keeps the link, or has
	over   chan struct{} // closed when it does not any more
}

// errNotHeld refuses to bring a device up once the link is given up.
var errNotHeld = errors.New("another process has the link to the XMPP server")

// TakeUp has the gate connect, and stay connected until GiveUp or Stop. The devices that
// another process, or an earlier tenure, has left online are brought up. It returns at once, and
// does nothing where the gate has the link, or before Start.
func (g *Gate) TakeUp() {
	g.turns.Lock()
	defer g.turns.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started && !g.stopped && g.tenure == nil {
		g.takeUpLocked()
	}
}

func (g *Gate) takeUpLocked() {
	t := &tenure{over: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(g.ctx)
	g.tenure, g.restored, g.begun, g.cause = t, false, false, "not connected yet"
	clear(g.departed)
	g.holdLocked()
	select {
	case g.turn <- struct{}{}:
	default:
	}
}

// GiveUp closes the link for another process to open, and returns when it is closed. The
// devices count as up for Options.Hold, so that one that is quick to open it costs no push: its
// Online replaces theirs. It does nothing where the gate does not have the link.
func (g *Gate) GiveUp() {
	g.turns.Lock()
	defer g.turns.Unlock()
	g.mu.Lock()
	t := g.tenure
	if t == nil {
		g.mu.Unlock()
		return
	}
	g.tenure, g.cause = nil, "another node has it"
	if !t.kept {
		close(t.over) // run will not see this tenure
	}
	waiting := g.endBurstsLocked()
	g.mu.Unlock()
	for _, e := range waiting {
		g.refuseForNow(e)
	}
	late := time.AfterFunc(stopGrace, t.cancel) // a server that takes nothing holds up the writer
	defer late.Stop()
	ended := make(chan struct{})
	select {
	case g.ending <- ended:
		<-ended
	case <-g.ctx.Done(): // Stop ends the link
	}
	t.cancel()
	select {
	case <-t.over:
	case <-g.ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cause = "another node has it"
	clear(g.givenUp) // the next holder hears of them
	clear(g.hibernating)
	clear(g.former)
	clear(g.departed)
}

// Holds reports whether the link is this process's, be it up or down.
func (g *Gate) Holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tenure != nil
}

// restore brings up the devices that a former process left online. It costs no stanza; the
// server's first answer tells those that have gone since. The stanzas of the link are handled
// meanwhile, and do not wait for a slow store.
func (g *Gate) restore(t *tenure) {
	for failures := 0; ; failures++ {
		err := g.restoreAll(t)
		if t.ctx.Err() != nil {
			return
		}
		g.mu.Lock()
		if g.tenure != t { // given up just now
			g.mu.Unlock()
			return
		}
		if g.restored = err == nil; g.restored {
			clear(g.departed)
		}
		if g.link != nil {
			g.cause = ""
			if err != nil {
				g.cause = err.Error()
			}
		}
		g.mu.Unlock()
		if err == nil {
			return
		}
		if failures == 0 {
			g.log.Warn("devices that were online not read, retrying", "error", err)
		}
		select {
		case <-time.After(backoff.Jitter(backoff.Doubled(g.opts.ReconnectInitial, g.opts.ReconnectMax, failures))):
		case <-t.ctx.Done():
			return
		}
	}
}

// restorePage is how many devices are read, and brought up, at once.
const restorePage = 500

func (g *Gate) restoreAll(t *tenure) error {
	for after := ""; ; {
		page, err := g.core.AllDevices(after, restorePage)
		if err != nil {
			return err
		}
		var coming sync.WaitGroup
		for _, d := range page {
			after = d.ID
			if d.Via != delivery.ViaXMPP || d.Address == "" || !g.local(d.Address) {
				continue
			}
			coming.Go(func() {
				err := g.calls.do(d.Account, func() error { return g.restoreOne(&d.Device) })
				if err != nil && t.ctx.Err() == nil {
					g.seldom.Info(g.log, "device not brought up", "device", d.ID, "error", err)
				}
			})
		}
		coming.Wait()
		if len(page) < restorePage || t.ctx.Err() != nil {
			return nil //nolint:nilerr // given up: whoever holds the link next brings the rest up
		}
	}
}

// restoreOne brings a device up unless it has been heard of in this tenure: another node may
// have had it on another session since an earlier one.
func (g *Gate) restoreOne(d *delivery.Device) error {
	g.mu.Lock()
	c := g.devices[d.ID]
	known := c != nil && c.tenure == g.tenure || g.hibernating[d.ID] != nil
	_, departed := g.departed[d.Address]
	g.mu.Unlock()
	if known {
		return nil
	}
	app := delivery.AppUnknown // in the background, if it has ever reported
	if d.Foreground {
		app = delivery.AppForeground
	}
	err := g.online(d.Account, d.ID, d.Address, false, app)
	if err == nil && departed { // another node may still have brought it up
		g.gone(d.Address, "presence unavailable")
	}
	return err
}
