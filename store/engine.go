package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// ErrBroken is wrapped by the error of an Apply after which the engine cannot go
// on: the outcome of that batch is unknown, and the engine has to be abandoned
// and reopened.
var ErrBroken = errors.New("engine broken")

// ErrUnsent is wrapped together with ErrBroken where nothing of the batch has reached the store.
var ErrUnsent = errors.New("nothing was written")

// ErrFenced is wrapped by the error of an Apply, or of Options.Open, of an engine that
// several processes share, once another process has taken over what this one owned. No
// Apply of this engine or of its successors takes effect any more; Outbox does not
// reopen it.
var ErrFenced = fmt.Errorf("fenced off: another node has taken over: %w", delivery.ErrStopped)

// Taken is the error of an Apply whose batch accepts IDs that other notifications have.
// Nothing of the batch has taken effect. Outbox refuses those acceptances
// (delivery.ErrConflict) and applies the rest. Only an engine that several processes
// share returns it: elsewhere the core claims an ID before it accepts.
type Taken struct{ IDs []string }

func (t *Taken) Error() string {
	return fmt.Sprintf("%d IDs are taken by other notifications, the first is %q", len(t.IDs), append(t.IDs, "")[0])
}

// Engine is what a store implements. Grouping callers, timeouts, retries and the
// watch over free space are not its business: Outbox does them in front of it. Package storetest holds the conformance suite.
//
// The reading methods are those of delivery.Reader. They may run at any time and
// concurrently with each other and with Apply; they see every batch whose Apply has
// returned. The values they return belong to the caller, with one exception: the
// Record that Unfinished passes to fn may be reused for the next, of which there
// may be a million; fn must copy the parts it keeps. Unfinished, List and Devices
// iterate over the store as it is when they are called, before the first fn; fn
// may call any other method.
type Engine interface {
	delivery.Reader

	// Apply makes all changes of b, or none, and if b.Sync has them on the disk, with
	// all that was applied before, when it returns; b may be empty then. It is never
	// called concurrently with itself. It must not keep b's slices, nor change what b
	// points to.
	//
	// Within b the kinds apply in the order of the fields, and each kind in the
	// order of its slice:
	//
	//   - Accept of a Seq that the store has changes nothing. Otherwise it
	//     stores the notification, its data and its ID, and a pending Record per
	//     device: delivery.NewRecord. Totals.Accepted grows by the number of devices.
	//   - Assign without a Record that has no device changes nothing.
	//   - Assign of a Seq without a Record for the device "" changes nothing.
	//     Otherwise that Record becomes one for the device, and the "" in the
	//     notification's Devices its name.
	//   - Update of a delivery that has no Record changes nothing: it is over.
	//   - Events are stored under their notification; one whose Number is there
	//     already changes nothing, nor does one for a notification that is not
	//     there.
	//   - Finish of a delivery that has no Record changes nothing. Otherwise the
	//     Record goes, At is kept for Prune, and Totals.Finished grows by one.
	//   - PutDevices replaces an entry by Device.Written: that of another account stays. A
	//     push token that it claims moves: another's entry loses it.
	//   - RemoveDevices of an unknown device, or of one that another account has, changes
	//     nothing.
	//   - PutDismissals replaces a Dismissal of the same device and Seq;
	//     RemoveDismissals of an unknown one changes nothing.
	//   - Erase of an unknown Seq changes nothing. Otherwise nothing of the
	//     notification can be read any more; each Record of it goes, and
	//     Totals.Finished grows by one for it.
	//
	// A batch that holds an Assign or an Erase names no Seq that it accepts.
	//
	// So a batch that is applied twice has the same outcome as one applied once.
	//
	// An error means that nothing of b has taken effect or ever will, unless it
	// wraps ErrBroken and not ErrUnsent; then that is unknown. See also ErrFenced and Taken.
	Apply(b *delivery.Batch) error

	// Prune removes up to limit notifications (content, data, ID, timeline and
	// all indexes) whose deliveries are all finished, the last of them before
	// finishedBefore, and returns how many it removed. Less than limit: there are no
	// more. It also forgets, for EventsFrom, the oldest commits whose events are all
	// from before that time. It may run concurrently with Apply and must not hold it
	// up for long. Its cost is proportional to the entries it removes.
	Prune(finishedBefore time.Time, limit int) (n int, err error)

	// Abandon gives up an engine whose Apply is broken or does not return. When
	// Abandon has returned, nothing that this engine was asked to do can reach
	// the store any more, the store can be reopened, and an Apply that was
	// under way returns soon, with an error that wraps ErrBroken. Reads may go
	// on until Close. Abandon may run concurrently with every other method; it may take as
	// long as the operating system holds a call of this engine.
	Abandon()

	// Close frees the engine, abandoned or not. No other method is running or
	// called after it.
	Close() error
}

// Scrubber is an Engine that keeps removed data on a disk for a while.
type Scrubber interface {
	// Scrub takes data that RemoveDevices and Erase removed off the disk, if any of it
	// was removed before the given time, and reports whether it did. It may run
	// concurrently with every other method but Close, and take minutes; ctx ends it early.
	Scrub(ctx context.Context, before time.Time) (bool, error)
}

// Auditor is an Engine that several processes write, and that counts by one snapshot.
type Auditor interface {
	Audit() (Audit, error)
}

// Gatherer is an Engine that reads what the Cores of many partitions take up faster at once
// than for each.
type Gatherer interface {
	Backlog(parts []uint16) (delivery.Backlog, error)
}
