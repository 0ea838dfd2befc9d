package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
)

// newReceipts makes the sender of events to webhooks. It does not send yet.
func newReceipts(cfg *config.Config, h *Heartline, hold *receipts.Hold) (*receipts.Receipts, error) {
	webhooks, err := webhooksOf(cfg.Receipts)
	if err != nil {
		return nil, err
	}
	var state store.State
	if h.outbox.HasState() {
		state = h.outbox
	}
	opts := receipts.Options{
		Core: h.core, State: state, Tail: h.tail, Hold: hold, Retain: retain(cfg), Agent: "Heartline/" + Version(), Logger: h.log,
	}
	if h.node != nil {
		opts.Now = h.node.now
	}
	if h.shares() {
		opts.Part, opts.Node, opts.Relay = cluster.Partition, h.node.OwnerName, h.node.relayOrder
	}
	return receipts.New(opts, webhooks)
}

// relayOrder has the owner of a partition carry out an order about a webhook.
func (n *node) relayOrder(ctx context.Context, part uint16, o receipts.Order) (out receipts.Outcome, err error) {
	order, err := json.Marshal(o)
	if err != nil {
		return out, err
	}
	err = n.AtOwner(ctx, part, func() (err error) {
		out, err = n.carryOut(ctx, o)
		return err
	}, func(peer *relay.Session) error {
		outcome, err := peer.Webhook(ctx, order)
		if err != nil {
			return err
		}
		return json.Unmarshal(outcome, &out)
	})
	return out, err
}

// carryOut carries out an order at the owner of its partition. A node that does not send the
// webhook any more, or not yet, has stopped as far as the order is concerned: see AtOwner.
func (n *node) carryOut(ctx context.Context, o receipts.Order) (receipts.Outcome, error) {
	out, err := n.receipts.Do(ctx, o)
	if errors.Is(err, receipts.ErrElsewhere) {
		err = fmt.Errorf("%w: %w", delivery.ErrStopped, err)
	}
	return out, err
}

// onOrder carries out an order of another node about a webhook.
func (n *node) onOrder(ctx context.Context, order []byte) ([]byte, error) {
	var o receipts.Order
	if err := json.Unmarshal(order, &o); err != nil {
		return nil, fmt.Errorf("%w: %w", delivery.ErrInvalid, err)
	}
	if n.receipts == nil {
		return nil, fmt.Errorf("%w: this node sends no webhooks", delivery.ErrNotFound)
	}
	out, err := n.carryOut(ctx, o)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// shares reports whether other nodes may use the same store.
func (h *Heartline) shares() bool { return h.node != nil && h.node.mesh != nil }

// webhookNames lists the webhooks, to be compared with those of other nodes.
func webhookNames(c config.Receipts) string {
	var names []string
	for i := range c.Webhooks {
		names = append(names, c.Webhooks[i].ID())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// retain is how long events wait for a webhook. The store has those of its history in any
// case.
func retain(cfg *config.Config) time.Duration { return max(cfg.Receipts.Retain, cfg.Store.History) }

// webhooksOf reads the files that the configuration names.
func webhooksOf(c config.Receipts) (webhooks []receipts.Webhook, err error) {
	var errs []error
	for i, w := range c.Webhooks {
		key := fmt.Sprintf("receipts.webhooks[%d].", i)
		hook := receipts.Webhook{Name: w.ID(), URL: w.URL, Events: w.Events, Accounts: w.Accounts, Timeout: w.Timeout}
		file, err := os.ReadFile(w.SecretFile)
		if err == nil {
			hook.Secrets, err = credentials.ParseWebhookSecrets(file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%ssecret_file: %w", key, err))
		}
		if w.CAFile != "" {
			if hook.RootCAs, err = rootCAs(key+"ca_file", w.CAFile); err != nil {
				errs = append(errs, err)
			}
		}
		webhooks = append(webhooks, hook)
	}
	return webhooks, errors.Join(errs...)
}

// reloadReceipts takes up changed webhooks.
func (b *Broker) reloadReceipts(ctx context.Context, next *config.Config, webhooks []receipts.Webhook) error {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	return b.receipts.Reconfigure(ctx, webhooks, retain(next))
}

// eventSource is the tail of the store as hooks reads it.
type eventSource struct {
	core Core
	tail *receipts.Tail
}

// EventsEnd implements hooks.Events.
func (s eventSource) EventsEnd() (delivery.Place, error) { return s.core.EventsEnd() }

// Follow implements hooks.Events.
func (s eventSource) Follow(ctx context.Context, from delivery.Place, fn func(e *delivery.AccountEvent, at delivery.Place) error) error {
	return s.tail.Follow(ctx, from, func(batch []receipts.Event, at delivery.Place, _ bool) error {
		for i := range batch {
			from = slices.Clone(from) // fn keeps it
			from.Advance(batch[i].At)
			if err := fn(&batch[i].AccountEvent, from); err != nil {
				return err
			}
		}
		from = at
		return fn(nil, at)
	})
}

// Webhooks returns how each webhook is doing, by name.
func (h *Heartline) Webhooks() []receipts.Status { return h.receipts.Statuses() }

// retryPatience bounds RetryWebhook where another node sends the webhook.
const retryPatience = 10 * time.Second

// RetryWebhook sends the parked events of a webhook again, those with these webhook-ids or
// all, and enables it if it was disabled by its receiver's answer 410, at whichever node sends it. It
// returns how many events were parked.
func (h *Heartline) RetryWebhook(name string, ids ...string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), retryPatience)
	defer cancel()
	return h.receipts.Retry(ctx, name, ids)
}

func (b *Broker) receiptsFigures(s scrape) {
	for _, w := range b.receipts.OwnStatuses() {
		label := []string{"webhook", w.Name}
		s.gauge("webhook_up", "1 while the webhook's receiver takes events.", bit(w.State == receipts.StateOK), label...)
		s.gauge("webhook_lag_seconds", "Age of the oldest event that is still to be delivered to the webhook, without parked ones.", w.Lag.Seconds(), label...)
		s.gauge("webhook_deferred", "Events that the webhook's receiver has refused and that are retried.", float64(w.Deferred), label...)
		s.gauge("webhook_parked", "Events for which every attempt has failed, until somebody retries them.", float64(w.Parked), label...)
		s.counter("webhook_delivered_total", "Events delivered to the webhook.", float64(w.Delivered), label...)
		s.counter("webhook_failed_total", "Requests to the webhook that have failed.", float64(w.Failed), label...)
		s.counter("webhook_dropped_total", "Events dropped because the webhook did not take them within receipts.retain, or refused too many.", float64(w.Dropped), label...)
	}
}
