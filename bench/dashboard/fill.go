package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// each is how many deliveries are outstanding for a device: the default of
// delivery.max_outstanding_per_device.
const each = 1000

// written is how many notifications go in one write.
const written = 500

// remembered is about how many IDs of each kind are remembered, to be asked for.
const remembered = 10_000

// bodyBytes makes each notification one of some 250 bytes.
const bodyBytes = 240

// letters returns random letters, of which the bodies are parts: they compress less than
// sentences, and much less than one text again and again.
func letters() string {
	b := make([]byte, 16<<20)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz      "[rand.IntN(32)]
	}
	return string(b)
}

// content is what a store holds, as far as the reads need it.
type content struct {
	accounts             int // each has one device
	outstanding, history int
	begin                time.Time // of the history
	step                 time.Duration
	open, final          []string // IDs
	historyBytes         int64    // on the disk
	openBytes            int64
	text                 string // while it is filled
}

func account(i int) string { return fmt.Sprintf("account-%06d", i) }
func device(i int) string  { return fmt.Sprintf("device-%06d", i) }

func (c *content) anyAccount() int { return rand.IntN(c.accounts) }

// The history is of the last 20 hours but one, the outstanding notifications of that one.
const (
	historySpan = 19 * time.Hour
	openSpan    = time.Hour
)

// fill makes a store, in the order of time, through its engine: over HTTP it would take
// hours. Of each final notification it holds what the core stores of one that was published
// and acknowledged, in two writes; of each other one that it waits for its device.
func fill(ctx context.Context, dir string, outstanding, history int) (c *content, err error) {
	c = &content{accounts: max(1, outstanding/each), outstanding: outstanding, history: history, text: letters()}
	defer func() { c.text = "" }()
	c.begin = time.Now().Add(-historySpan - openSpan)
	c.step = historySpan / time.Duration(max(1, history))
	s, err := pebblestore.Open(dir, pebblestore.Options{})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i := 0; i < c.accounts; {
		var b delivery.Batch
		for range min(written, c.accounts-i) {
			b.PutDevices = append(b.PutDevices, delivery.Device{ID: device(i), Account: account(i), SeenAt: c.begin})
			i++
		}
		if err := s.Apply(&b); err != nil {
			return c, err
		}
	}
	for i := 0; i < history; {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		var accepted, ended delivery.Batch
		for range min(written, history-i) {
			n := c.notification(i, c.begin.Add(time.Duration(i)*c.step))
			d, later := n.Devices[0], n.AcceptedAt.Add(c.step/2)
			accepted.Accept = append(accepted.Accept, delivery.Acceptance{Notification: n})
			ended.Events = append(ended.Events,
				delivery.Event{Seq: n.Seq, Number: uint64(n.Seq) + 1, Time: n.AcceptedAt, Kind: delivery.EventPublished, Device: d, Attempt: 1},
				delivery.Event{Seq: n.Seq, Number: uint64(n.Seq) + 2, Time: later, Kind: delivery.EventReceived, Device: d, Attempt: 1})
			ended.Finish = append(ended.Finish, delivery.Finish{Key: delivery.Key{Seq: n.Seq, Device: d}, At: later, State: delivery.StateAcked, Attempts: 1})
			if i%max(1, history/remembered) == 0 {
				c.final = append(c.final, n.ID)
			}
			i++
		}
		if err := errors.Join(s.Apply(&accepted), s.Apply(&ended)); err != nil {
			return c, err
		}
	}
	if c.historyBytes, err = onDisk(dir); err != nil {
		return c, err
	}
	for i := 0; i < outstanding; {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		var b delivery.Batch
		for range min(written, outstanding-i) {
			n := c.notification(i, c.begin.Add(historySpan+time.Duration(i)*(openSpan/time.Duration(outstanding+1))))
			r := delivery.NewRecord(n, n.Devices[0])
			r.State = delivery.StateWaiting
			b.Accept = append(b.Accept, delivery.Acceptance{Notification: n})
			b.Update = append(b.Update, r)
			b.Events = append(b.Events, delivery.Event{Seq: n.Seq, Number: uint64(n.Seq) + 1, Time: n.AcceptedAt, Kind: delivery.EventWaiting, Device: r.Device})
			if i%max(1, outstanding/remembered) == 0 {
				c.open = append(c.open, n.ID)
			}
			i++
		}
		if err := s.Apply(&b); err != nil {
			return c, err
		}
	}
	if err := s.Apply(&delivery.Batch{Sync: true}); err != nil {
		return c, err
	}
	all, err := onDisk(dir)
	c.openBytes = all - c.historyBytes
	return c, err
}

func (c *content) notification(i int, at time.Time) *delivery.Notification {
	seq := delivery.Seq(at.UnixNano())
	from := rand.IntN(len(c.text) - bodyBytes)
	return &delivery.Notification{
		Seq: seq, ID: delivery.NewID(seq), Account: account(i % c.accounts), Title: "Front door", Body: c.text[from : from+bodyBytes],
		Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: at, ExpiresAt: at.Add(72 * time.Hour),
		Devices: []string{device(i % c.accounts)},
	}
}

// onDisk is the size of the files below dir.
func onDisk(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // a compaction has removed it
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
