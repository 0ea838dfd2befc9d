package receipts

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// ErrUnknownWebhook is wrapped by the error about a name that no webhook has.
var ErrUnknownWebhook = fmt.Errorf("%w: no such webhook", delivery.ErrNotFound)

// Status is how a webhook is doing.
type Status struct {
	Name     string
	URL      string // without its query
	State    string // StateOK, StateFailing, StateDisabled, StateElsewhere
	Since    time.Time
	Reason   string        // of disabled and elsewhere
	Events   []string      // empty: all
	Accounts []string      // empty: all
	Lag      time.Duration // age of the oldest event that is still to be delivered, without parked ones
	Deferred int           // events that are retried by themselves
	Parked   int
	// Since the start of the process.
	Delivered, Failed, Dropped, ParkedTotal uint64
	LastSuccess, LastFailure                time.Time
	LastError                               string
	NextAttempt                             time.Time // while it fails
}

// The states of a webhook.
const (
	StateOK       = "ok"
	StateFailing  = "failing"
	StateDisabled = "disabled"
	// StateElsewhere: another node sends it. The counts are not known here.
	StateElsewhere = "elsewhere"
)

// OwnStatuses returns the webhooks that this Receipts sends, by name. It does not ask the store.
func (r *Receipts) OwnStatuses() []Status {
	all := make([]Status, 0, len(r.list()))
	for _, k := range r.list() {
		all = append(all, k.status())
	}
	return all
}

// Statuses returns all webhooks by name.
func (r *Receipts) Statuses() []Status {
	all := r.OwnStatuses()
	if r.shared() {
		all = append(all, r.others()...)
		slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	}
	return all
}

func (k *worker) status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := &k.sender.hook
	f := &k.figures
	s := Status{
		Name: k.name, URL: shownURL(h.URL), State: StateOK, Events: slices.Clone(h.Events), Accounts: slices.Clone(h.Accounts),
		Delivered: f.delivered, Failed: f.failed, Dropped: f.dropped, ParkedTotal: f.parked,
		LastSuccess: f.lastSuccess, LastFailure: f.lastFailure, LastError: f.lastError,
	}
	switch {
	case k.rec.Disabled != nil:
		s.State, s.Since, s.Reason = StateDisabled, k.rec.Disabled.At, k.rec.Disabled.Reason
	case !k.up:
		s.State = StateFailing
		s.NextAttempt = latest(k.probeAt, k.pausedTo)
	}
	for _, i := range k.asides {
		if i.Parked.IsZero() {
			s.Deferred++
		} else {
			s.Parked++
		}
	}
	if at, behind := k.oldestLocked(func(i *item) bool { return i.Parked.IsZero() }); behind {
		s.Lag = k.r.lag(at)
	}
	return s
}

// Parked is an event that could not be delivered.
type Parked struct {
	ID           string // the webhook-id
	Event        string
	Notification string // its ID; "": it was erased
	Time         time.Time
	Attempts     int
	FirstAttempt time.Time
	ParkedAt     time.Time
	Error        string
}

// Parked returns the parked events of a webhook, the oldest first, at most limit.
func (r *Receipts) Parked(name string, limit int) ([]Parked, error) {
	asides := map[delivery.Position]*item{}
	k := r.worker(name)
	switch {
	case k != nil:
		k.mu.Lock()
		for at, i := range k.asides {
			asides[at] = &item{at: at, kind: i.kind, deferred: i.deferred}
		}
		k.mu.Unlock()
	case r.shared():
		var err error
		if asides, err = r.storedItems(name); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: %q", ErrUnknownWebhook, name)
	}
	all := []Parked{}
	var seqs []delivery.Seq
	for _, at := range slices.SortedFunc(maps.Keys(asides), comparePositions) {
		i := asides[at]
		if i.Parked.IsZero() {
			continue
		}
		if len(all) == limit {
			break
		}
		all = append(all, Parked{
			ID: i.messageID(), Event: i.kind, Time: i.Time, Attempts: i.Attempts, FirstAttempt: i.First, ParkedAt: i.Parked, Error: i.Error,
		})
		seqs = append(seqs, i.Seq)
	}
	for n := range all {
		notification, err := r.core.Notification(seqs[n])
		switch {
		case err == nil:
			all[n].Notification = notification.ID
		case !errors.Is(err, delivery.ErrNotFound):
			return nil, err
		}
	}
	return all, nil
}

// ours returns the worker of a webhook that this Receipts sends.
func (r *Receipts) ours(name string) (*worker, error) {
	switch k := r.worker(name); {
	case k != nil:
		return k, nil
	case r.shared():
		return nil, r.elsewhere(name)
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknownWebhook, name)
}

// Order is what an operator asks of the Receipts that sends a webhook: to retry it, or to test it.
type Order struct {
	Webhook string
	Test    bool
	IDs     []string // of the events to retry: webhook-ids; empty: all
}

// Outcome is what became of an Order.
type Outcome struct {
	Retried int
	Tested  TestResult
}

// Retry sends parked events again, those with these webhook-ids or all, enables a
// disabled webhook, and makes its next attempt at once, at whichever node sends it. It returns how
// many events were parked.
func (r *Receipts) Retry(ctx context.Context, name string, ids []string) (int, error) {
	o, err := r.order(ctx, Order{Webhook: name, IDs: ids})
	return o.Retried, err
}

// TestResult is the answer to a test message.
type TestResult struct {
	ID     string // the webhook-id
	Status int    // 0: there was no answer
	Took   time.Duration
	Error  string // "": the receiver took it
}

// Test has the node that sends a webhook send a message of the type test, once, and waits for the
// answer.
func (r *Receipts) Test(ctx context.Context, name string) (TestResult, error) {
	o, err := r.order(ctx, Order{Webhook: name, Test: true})
	return o.Tested, err
}

func (r *Receipts) order(ctx context.Context, o Order) (Outcome, error) {
	out, err := r.Do(ctx, o)
	if !errors.Is(err, ErrElsewhere) || r.opts.Relay == nil {
		return out, err
	}
	out, failed := r.opts.Relay(ctx, r.opts.Part(o.Webhook), o)
	if errors.Is(failed, delivery.ErrUnavailable) || errors.Is(failed, delivery.ErrStopped) || errors.Is(failed, delivery.ErrNotFound) {
		return out, fmt.Errorf("%w (that node was asked, without success: %w)", r.elsewhere(o.Webhook), failed)
	}
	return out, failed
}

// Do carries out an Order about a webhook that this Receipts sends. The error wraps ErrElsewhere
// where another node sends it.
func (r *Receipts) Do(ctx context.Context, o Order) (out Outcome, err error) {
	k, err := r.ours(o.Webhook)
	switch {
	case err != nil:
	case o.Test:
		out.Tested, err = k.test(ctx)
	default:
		out.Retried = k.retry(o.IDs)
	}
	return out, err
}

// test sends a test message.
func (k *worker) test(ctx context.Context) (TestResult, error) {
	k.mu.Lock()
	s := k.sender
	k.mu.Unlock()
	now := time.Now()
	body, err := json.Marshal(message{typeTest, wire.FormatTime(now), struct {
		Detail string `json:"detail"`
	}{"a test, asked for by an operator"}})
	if err != nil {
		return TestResult{}, err
	}
	t := TestResult{ID: "test_" + strconv.FormatInt(now.UnixNano(), 36)}
	o := s.send(ctx, t.ID, body)
	t.Status, t.Took = o.status, time.Since(now)
	if o.err != nil {
		t.Error = o.err.Error()
		if o.excerpt != "" {
			t.Error += ": " + o.excerpt
		}
	}
	return t, nil
}
