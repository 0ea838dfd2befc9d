package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// links gives the link of each XMPP component to one node at a time: the owner of the
// partition that the component's name is in, while its lease is trusted. So the next owner
// opens the link after this one has closed it, or must have.
type links struct {
	mu      sync.Mutex
	all     []*heldLink
	stopped bool
	quit    context.CancelFunc
	tasks   sync.WaitGroup
}

// heldLink is the link of one component at this node.
type heldLink struct {
	mu   sync.Mutex // taking it up or giving it up
	gate *xmpp.Gate
	part uint16
}

// linkBeats is how many times in a lease a node checks that it is still trusted. The trust
// ends a second before another node can take over.
const linkBeats = 20

// start has gates that are on standby take up their links in turn, until stop.
func (l *links) start(n *node, gates []*xmpp.Gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.quit = cancel
	for _, g := range gates {
		h := &heldLink{gate: g, part: cluster.Partition(g.Domain())}
		l.all = append(l.all, h)
		l.tasks.Go(func() { h.watch(ctx, n) })
	}
}

// stop ends the turns, before the gates are stopped. It is safe before start, and twice.
func (l *links) stop() {
	l.mu.Lock()
	l.stopped = true
	if l.quit != nil {
		l.quit()
	}
	l.mu.Unlock()
	l.tasks.Wait()
}

// cede closes the links that belong to partitions which this node gives up.
func (l *links) cede(parts []uint16) {
	l.mu.Lock()
	all := l.all
	l.mu.Unlock()
	for _, h := range all {
		if slices.Contains(parts, h.part) {
			h.mu.Lock() // the Router does not serve the partition any more
			h.gate.GiveUp()
			h.mu.Unlock()
		}
	}
}

func (h *heldLink) watch(ctx context.Context, n *node) {
	tick := time.NewTicker(n.cfg.Cluster.Lease / linkBeats)
	defer tick.Stop()
	for {
		changed := n.Changed(h.part)
		h.settle(n)
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// settle takes the link up or gives it up, as it should be now.
func (h *heldLink) settle(n *node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch held := h.gate.Holds(); {
	case !n.Serves(h.part) || n.trusted() != nil:
		if held {
			n.log.Info("XMPP link given up", "component", h.gate.Domain())
		}
		h.gate.GiveUp()
	case !held:
		n.log.Info("XMPP link taken up", "component", h.gate.Domain())
		h.gate.TakeUp()
	}
}

// trusted returns nil while no other node can have taken over.
func (n *node) trusted() error {
	if l := n.lives.life.Load(); l != nil {
		return l.Trusted()
	}
	return delivery.ErrUnavailable
}

// linkReady tells which node has the link of a component, if it is not this one.
func (n *node) linkReady(r *overview.Readiness, part, domain string) {
	switch name := n.OwnerName(cluster.Partition(domain)); name {
	case "":
		r.Fault(part, "held by no node at the moment")
	case n.name:
		r.Fault(part, "down: the lease of this node is not renewed")
	default:
		r.Add(part, "held by node "+name)
	}
}

// nodeCore is a node as its gates see it.
type nodeCore struct{ *node }

// AllDevices implements xmpp.Core. A gate that takes a link up reads all devices, and to ask the owner of
// each would take a round trip for each.
func (n nodeCore) AllDevices(after string, limit int) ([]delivery.DeviceView, error) {
	return n.StoredDevices(after, limit)
}

// componentsText tells nodes with other components from this one.
func componentsText(components []config.XMPPComponent) string {
	all := make([]string, len(components))
	for i, c := range components {
		all[i] = fmt.Sprintf("%s for %s", c.Domain, strings.Join(c.Hosts, ", "))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}
