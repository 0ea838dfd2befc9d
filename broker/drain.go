package broker

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/cluster"
)

// A node that leaves ends its MQTT connections in steps, so that the devices come to the other
// nodes spread over cluster.drain; but where there are few of them, some in each step.
const (
	shedEvery = 100 * time.Millisecond
	shedLeast = 50
)

// shedNow returns how many of the connections end in this step, with so much time left.
func shedNow(left int, remaining time.Duration) int {
	steps := max(1, int(remaining/shedEvery))
	return max(shedLeast, (left+steps-1)/steps)
}

// drain hands what this node has to the other nodes, within cluster.drain: first its
// partitions, while everything is served, then its MQTT connections. Where no other node is
// there it returns at once. Close follows.
func (b *Broker) drain(ctx context.Context) {
	limit := b.cfg.Cluster.Drain
	if b.Heartline.node == nil || b.node.mesh == nil || limit == 0 {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b.leaving.Store(true) // a load balancer sends nobody here any more
	// The hand-over of partitions that are left by then goes on while connections end.
	handing, enough := context.WithTimeout(ctx, limit/2)
	defer enough()
	b.log.Info("leaving: the other nodes take over", "for_at_most", limit)
	switch err := b.node.node.Drain(handing); {
	case errors.Is(err, cluster.ErrAlone):
		b.leaving.Store(false)
		b.log.Info("no other node takes over, stopping")
		return
	case err != nil:
		b.log.Warn("not all accounts are with other nodes yet, ending connections", "error", err)
	default:
		b.log.Info("other nodes serve all accounts", "after", time.Since(began).Round(time.Millisecond))
	}
	ended := b.shed(ctx, began.Add(limit))
	b.log.Info("MQTT connections ended, stopping", "connections", ended, "after", time.Since(began).Round(time.Millisecond))
}

// shedder is a listener of MQTT.
type shedder interface {
	Refuse()
	Shed(n int, code packets.Code) (ended, left int)
}

// shed ends the MQTT connections until then, and returns how many they were. New ones are
// refused from the start.
func (b *Broker) shed(ctx context.Context, until time.Time) (sum int) {
	var all []shedder
	for _, l := range []*listener.Listener{b.listeners.tcp, b.listeners.tls} {
		if l != nil {
			all = append(all, l)
		}
	}
	if b.listeners.ws != nil {
		all = append(all, b.listeners.ws)
	}
	left := 0
	for _, l := range all {
		l.Refuse()
		_, n := l.Shed(0, packets.CodeSuccess)
		left += n
	}
	step := time.NewTicker(shedEvery)
	defer step.Stop()
	for left > 0 {
		quota := shedNow(left, time.Until(until))
		left = 0
		for _, l := range all {
			ended, n := l.Shed(quota, packets.ErrUseAnotherServer)
			quota -= ended
			sum += ended
			left += n
		}
		if left == 0 {
			break
		}
		select {
		case <-step.C:
		case <-ctx.Done():
			return sum
		}
	}
	return sum
}

// elsewhere has HTTP clients of a node that leaves connect again, and so to another node:
// their connections end with the answer.
func (b *Broker) elsewhere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
