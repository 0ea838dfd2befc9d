// Package seldom writes log records that clients can cause as often as they like, and
// limits how many.
package seldom

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Records of one message: burst at once, then one every interval. maxMessages bounds
// the memory; messages are constants of the program, so that it is never reached.
const (
	burst       = 20
	interval    = time.Second
	maxMessages = 256
	maxValue    = 256
)

// Log limits records by their message. The next record after some were left out says
// how many. The zero value is ready; it is safe for concurrent use.
type Log struct {
	mu       sync.Mutex
	messages map[string]*limit
}

type limit struct {
	limiter *rate.Limiter
	omitted int
}

// Info writes a record at level info, unless there were too many with this message.
// Long texts among the values are clipped.
func (l *Log) Info(to *slog.Logger, msg string, args ...any) { l.log(to, slog.LevelInfo, msg, args) }

// Warn is Info at level warn.
func (l *Log) Warn(to *slog.Logger, msg string, args ...any) { l.log(to, slog.LevelWarn, msg, args) }

// Error is Info at level error.
func (l *Log) Error(to *slog.Logger, msg string, args ...any) { l.log(to, slog.LevelError, msg, args) }

func (l *Log) log(to *slog.Logger, level slog.Level, msg string, args []any) {
	ctx := context.Background()
	if !to.Enabled(ctx, level) {
		return
	}
	omitted, ok := l.allow(msg, time.Now())
	if !ok {
		return
	}
	out := make([]any, 0, len(args)+2)
	for _, a := range args {
		switch v := a.(type) {
		case string:
			a = Clip(v)
		case error:
			if text := v.Error(); len(text) > maxValue {
				a = Clip(text)
			}
		}
		out = append(out, a)
	}
	if omitted > 0 {
		out = append(out, "omitted", omitted)
	}
	to.Log(ctx, level, msg, out...)
}

func (l *Log) allow(msg string, now time.Time) (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.messages[msg]
	if m == nil {
		if l.messages == nil || len(l.messages) >= maxMessages {
			l.messages = map[string]*limit{}
		}
		m = &limit{limiter: rate.NewLimiter(rate.Every(interval), burst)}
		l.messages[msg] = m
	}
	if !m.limiter.AllowN(now, 1) {
		m.omitted++
		return 0, false
	}
	omitted, m.omitted = m.omitted, 0
	return omitted, true
}

// Clip shortens a text to what a log record may hold of it.
func Clip(s string) string {
	if len(s) <= maxValue {
		return s
	}
	return s[:maxValue] + "…"
}
