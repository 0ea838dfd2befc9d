package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback"
)

// authReady names an authentication service that gives no answers. The clients that are
// connected stay, so that it makes nothing unready.
func (h *Heartline) authReady(checks map[string]string) {
	if since, err := h.auth.Outage(); err != nil {
		checks["auth"] = fmt.Sprintf("failed since %s: %s", since.UTC().Format(time.RFC3339), err)
	}
}

// nodeReady tells of the lease, the partitions and the relays to the other nodes. A lease
// that has ended makes the store unready; a relay that is down makes nothing unready, since a
// load balancer would take both of two nodes out.
func (h *Heartline) nodeReady(checks map[string]string) {
	if h.node == nil {
		return
	}
	st := h.node.node.Status()
	checks["lease"] = "renewed"
	if l := h.node.lives.life.Load(); l == nil {
		checks["lease"] = "none: this node joins again"
	} else if err := l.Trusted(); err != nil {
		checks["lease"] = err.Error()
	}
	if r := h.node.replication.Load(); r != nil { // the standby is not this node's to mend
		checks["replication"] = r.String()
	}
	checks["partitions"] = fmt.Sprintf("%d of %d are this node's", st.Owned, cluster.Parts)
	if st.Unserved > 0 {
		checks["partitions"] += fmt.Sprintf(", %d are nobody's", st.Unserved)
	}
	for _, p := range st.Peers {
		checks["relay "+p.Name] = "up"
		if !p.Up {
			checks["relay "+p.Name] = "down: requests for its accounts are held, then refused"
		}
	}
}

// pushReady tells of the apps. Pushes that stop make nothing unready. An app that speaks to
// several push services is ok if all of them are; otherwise the check names those that are not.
func pushReady(checks map[string]string, apps []fallback.AppStatus) {
	for _, s := range apps {
		part, state := "push "+s.App.String(), s.State
		if s.Origin != "" && s.State != "ok" {
			state += " at " + s.Origin
		}
		if s.Cause != "" {
			state += ": " + s.Cause
		}
		switch before := checks[part]; {
		case before == "" || before == "ok":
			checks[part] = state
		case s.State != "ok":
			checks[part] = before + "; " + state
		}
	}
}

// Ready reports the state of each part, and an error while notifications are refused.
func (b *Broker) Ready() (map[string]string, error) {
	checks := map[string]string{"listeners": "up", "store": "up"}
	var errs []error
	if !b.ready.Load() {
		checks["listeners"] = "down"
		errs = append(errs, errors.New("starting or stopping"))
	}
	if b.leaving.Load() {
		errs = append(errs, errors.New("leaving: the other nodes take over"))
	}
	if err := b.outbox.Ready(); err != nil {
		checks["store"] = err.Error()
		errs = append(errs, err)
	}
	if b.persist != nil {
		if err := b.persist.Ready(); err != nil { // notifications are accepted all the same
			checks["mqtt state"] = err.Error()
		}
	}
	if b.router != nil {
		pushReady(checks, b.router.Status())
	}
	b.authReady(checks)
	b.xmppReady(checks)
	b.nodeReady(checks)
	return checks, errors.Join(errs...)
}
