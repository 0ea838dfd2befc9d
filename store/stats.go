package store

import (
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Stats is what an Outbox tells of itself, for metrics. Counters count from New.
type Stats struct {
	Queued      int           // batches that wait to be written
	QueuedBytes int           // estimated
	Commits     uint64        // batches written
	Writes      uint64        // groups written: Commits / Writes batches share one
	LastGroup   int           // batches in the latest
	Synced      uint64        // writes that waited for the disk
	SyncTime    time.Duration // all of them together
	LastSync    time.Duration
	MaxSync     time.Duration
	Failed      uint64 // writes that failed
	Refused     uint64 // acceptances refused
	Reopened    uint64 // engines abandoned and replaced

	FreeBytes uint64 // as last seen; 0 where it is not watched

	Pruned      uint64          // notifications
	AuditedAt   time.Time       // zero: not yet
	Totals      delivery.Totals // at AuditedAt
	Unfinished  uint64          // at AuditedAt
	Unaccounted int64           // at AuditedAt: accepted - finished - unfinished; not 0 is a lost delivery

	LastError   string // "" where there was none
	LastErrorAt time.Time
}

func (s *Stats) note(g *group, synced bool, took time.Duration, err error) {
	if err != nil {
		s.Failed++
		return
	}
	s.Commits += uint64(len(g.commits))
	s.LastGroup = len(g.commits)
	s.Writes++
	if synced {
		s.Synced++
		s.SyncTime += took
		s.LastSync = took
		s.MaxSync = max(s.MaxSync, took)
	}
}

// Stats returns the present figures.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	s.Queued, s.QueuedBytes = len(o.queue), o.queuedBytes
	return s
}
