package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback"
)

// authReady names an authentication service that gives no answers. The clients that are
// connected stay, so that it makes nothing unready.
func (h *Heartline) authReady(r *overview.Readiness) {
	if since, err := h.auth.Outage(); err != nil {
		r.Fault("auth", fmt.Sprintf("failed since %s: %s", since.UTC().Format(time.RFC3339), err))
	}
}

// nodeReady tells of the lease, the partitions and the relays to the other nodes. A lease
// that has ended makes the store unready; a relay that is down makes nothing unready, since a
// load balancer would take both of two nodes out.
func (h *Heartline) nodeReady(r *overview.Readiness) {
	if h.node == nil {
		return
	}
	st := h.node.node.Status()
	if l := h.node.lives.life.Load(); l == nil {
		r.Fault("lease", "none: this node joins again")
	} else if err := l.Trusted(); err != nil {
		r.Fault("lease", err.Error())
	} else {
		r.Add("lease", "renewed")
	}
	if standbys := h.node.replication.Load(); standbys != nil { // the standby is not this node's to mend
		if standbys.Away() {
			r.Fault("replication", standbys.String())
		} else {
			r.Add("replication", standbys.String())
		}
	}
	owned := fmt.Sprintf("%d of %d are this node's", st.Owned, cluster.Parts)
	if st.Unserved > 0 {
		r.Fault("partitions", fmt.Sprintf("%s, %d are nobody's", owned, st.Unserved))
	} else {
		r.Add("partitions", owned)
	}
	for _, p := range st.Peers {
		if p.Up {
			r.Add("relay "+p.Name, "up")
		} else {
			r.Fault("relay "+p.Name, "down: requests for its accounts are held, then refused")
		}
	}
}

// pushReady reports the apps. Pushes that stop make nothing unready. An app that speaks to
// several push services is ok if all of them are; otherwise the check names those that are not.
// A warning, such as a certificate that expires soon, follows the state, and needs an operator.
func pushReady(r *overview.Readiness, apps []fallback.AppStatus) {
	texts, names := map[string][]string{}, []string{}
	for _, s := range apps {
		part := "push " + s.App.String()
		if texts[part] == nil {
			names, texts[part] = append(names, part), []string{}
		}
		state := s.State
		if s.Origin != "" {
			state += " at " + s.Origin
		}
		if s.Cause != "" {
			state += ": " + s.Cause
		}
		if s.State != "ok" {
			texts[part] = append(texts[part], state)
		}
		for _, w := range s.Warnings {
			if w != s.Cause && !slices.Contains(texts[part], w) {
				texts[part] = append(texts[part], w)
			}
		}
	}
	for _, part := range names {
		if faults := texts[part]; len(faults) > 0 {
			r.Fault(part, strings.Join(faults, "; "))
		} else {
			r.Add(part, "ok")
		}
	}
}

// Ready reports the state of each part, and an error while notifications are refused.
func (b *Broker) Ready() (map[string]string, error) {
	r := b.readiness()
	return r.Checks, r.Err
}

func (b *Broker) readiness() (r overview.Readiness) {
	var errs []error
	if b.ready.Load() {
		r.Add("listeners", "up")
	} else {
		r.Fault("listeners", "down")
		errs = append(errs, errors.New("starting or stopping"))
	}
	if b.leaving.Load() {
		errs = append(errs, errors.New("leaving: the other nodes take over"))
	}
	if err := b.storeReady(&r); err != nil {
		errs = append(errs, err)
	}
	if b.persist != nil {
		if err := b.persist.Ready(); err != nil { // notifications are accepted all the same
			r.Fault("mqtt state", err.Error())
		}
	}
	b.serversReady(&r)
	r.Err = errors.Join(errs...)
	return r
}

// pluginReadiness is what /readyz asks in a plugin: the listeners are the host's.
func (h *Heartline) pluginReadiness() (r overview.Readiness) {
	r.Err = h.storeReady(&r)
	h.serversReady(&r)
	return r
}

// serversReady reports the parts that depend on other servers, none of which makes Heartline
// unready.
func (h *Heartline) serversReady(r *overview.Readiness) {
	pushReady(r, h.router.Status())
	h.authReady(r)
	h.xmppReady(r)
	h.nodeReady(r)
}

// storeReady returns an error while the store refuses notifications.
func (h *Heartline) storeReady(r *overview.Readiness) error {
	err := h.outbox.Ready()
	if err != nil {
		r.Fault("store", err.Error())
	} else {
		r.Add("store", "up")
	}
	return err
}
