package fallback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// Details that the router itself gives.
const (
	reasonAccepted      = "accepted"
	reasonWithdrawn     = "no longer wanted"
	reasonExpired       = "expired"
	reasonPassed        = "a newer notification with its collapse_key has taken its place"
	reasonTimeout       = "timeout"
	reasonContent       = "content not readable"
	reasonNotConfigured = "app not configured"
)

var (
	errExpired = errors.New("notification expired before its push")
	errPassed  = errors.New(reasonPassed)
)

// settleLocked turns the outcome of a request into a result, and changes the state of
// the lane and of the queue as it demands.
func (l *lane) settleLocked(q *queue, it *item, res *delivery.PushResult, err error, started, now time.Time, probe bool) {
	token := q.token
	if err == nil {
		l.recoverLocked(probe)
		delete(l.throttled, token)
		l.tokens.add(tokenAnswer{})
		res.Outcome, res.Detail = delivery.PushAccepted, "200"
		return
	}
	res.Err = err
	if ce := (*contentError)(nil); errors.As(err, &ce) {
		if probe {
			l.abandonProbeLocked(now)
		}
		l.tally.log(l.log, slog.LevelError, reasonContent, it, err)
		res.Outcome, res.Detail = delivery.PushRefused, reasonContent
		if !errors.Is(err, delivery.ErrNotFound) {
			l.retryLocked(q, it, res, now, 0)
		}
		return
	}
	pe := (*PushError)(nil)
	if !errors.As(err, &pe) {
		pe = &PushError{Err: err}
	}
	res.Err, res.Detail = pe, pe.detail()
	if pe.StatusCode == 0 && errors.Is(pe.Err, context.DeadlineExceeded) {
		res.Detail = fmt.Sprintf("%s after %s", reasonTimeout, l.limits.Timeout)
	} else if pe.StatusCode == 0 && pe.Reason == "" && pe.Err != nil {
		res.Detail += ": " + pe.Err.Error()
	}
	switch {
	case pe.TokenGone, pe.Suspend:
		delete(l.throttled, token)
		if pe.Help != "" {
			res.Detail += ": " + pe.Help
		}
		if pe.TokenGone {
			l.recoverLocked(probe) // the server has looked at the registration, so it works
			l.tokens.add(tokenAnswer{})
			res.Outcome, res.GoneSince = delivery.PushTokenGone, pe.GoneSince
			return
		}
		switch {
		case pe.NotToken:
			l.judgedLocked(pe, now, probe)
			l.lacking, l.lackingAt = res.Detail, now
			l.tally.log(l.log, slog.LevelWarn, res.Detail, it, pe)
		case pe.StatusCode == 0:
			l.judgedLocked(pe, now, probe)
		default:
			l.suspectLocked(now, it, pe, probe)
		}
		res.Outcome, res.Config = delivery.PushTokenSuspended, l.server.fingerprint(l.key.app)
	case pe.Permanent:
		l.judgedLocked(pe, now, probe)
		res.Outcome = delivery.PushRefused
		level := slog.LevelError
		if errors.Is(pe.Err, ErrUnsuited) {
			level = slog.LevelInfo
		}
		l.tally.log(l.log, level, res.Detail, it, pe)
	case pe.ConfigFault:
		l.pauseLocked(now, pe, probe)
		l.retryLocked(q, it, res, now, max(0, l.breaker.normal.Sub(now)))
	case pe.Busy:
		wait := l.restLocked(now, pe, classOf(&it.push))
		l.retryLocked(q, it, res, now, wait)
		if classOf(&it.push) == classHigh { // first after the rest, so it is not spread
			res.RetryAfter = wait
		}
	case pe.Throttled:
		l.recoverLocked(probe)
		wait := l.throttleLocked(now, token, pe.RetryAfter)
		q.until = now.Add(wait)
		l.retryLocked(q, it, res, now, wait)
	case errors.Is(err, context.Canceled) && l.r.base.Err() != nil:
		// Cut off by Close, no fault of the server.
		res.Outcome, res.RetryAfter, res.Detail, res.Err = delivery.PushRetry, l.limits.RetryInitial, ErrClosed.Error(), ErrClosed
	case pe.Unsent:
		l.failLocked(now, started, res.Detail, 0, probe)
		l.retryLocked(q, it, res, now, min(pe.RetryAfter, maxRetryAfter))
	default:
		it.failures++
		l.failLocked(now, started, res.Detail, pe.RetryAfter, probe)
		l.retryLocked(q, it, res, now, min(pe.RetryAfter, maxRetryAfter))
	}
}

// retryLocked hands a push back to the core for another attempt, after at least named,
// the server's wait.
func (l *lane) retryLocked(q *queue, it *item, res *delivery.PushResult, now time.Time, named time.Duration) {
	wait := backoff.Jitter(backoff.Doubled(l.limits.RetryInitial, l.limits.RetryMax, max(0, it.push.Attempt-1)))
	if classOf(&it.push) == classHigh {
		wait = min(wait, highProbe)
	}
	if named > 0 {
		// Those that wait for the same moment are spread.
		wait = max(wait, named+backoff.Spread(min(l.limits.RetryInitial, named)))
	}
	res.Outcome, res.RetryAfter = delivery.PushRetry, wait
	q.handedBack(it, now, wait)
}

// countReason keeps the number of different reasons small: an error text may name
// addresses and ports.
func countReason(res *delivery.PushResult) string {
	var pe *PushError
	switch {
	case res.Outcome == delivery.PushAccepted:
		return reasonAccepted
	case !errors.As(res.Err, &pe):
		return res.Detail
	case pe.StatusCode != 0 || pe.Reason != "":
		return pe.detail()
	case errors.Is(pe.Err, context.DeadlineExceeded):
		return reasonTimeout
	}
	return "connection"
}

// throttleLocked leaves a registration in peace after a 429, longer each time.
func (l *lane) throttleLocked(now time.Time, token string, retryAfter time.Duration) time.Duration {
	t := l.throttled[token]
	wait := max(backoff.Jitter(backoff.Doubled(l.limits.RetryInitial, l.limits.RetryMax, t.strikes)), min(retryAfter, maxRetryAfter))
	t.strikes++
	t.until = now.Add(wait)
	if len(l.throttled) >= maxThrottled {
		// Make room: elapsed ones first, then any.
		for k, v := range l.throttled {
			if len(l.throttled) < maxThrottled && now.Before(v.until) {
				break
			}
			delete(l.throttled, k)
		}
	}
	l.throttled[token] = t
	if t.until.After(l.relieved) {
		l.relieved = t.until
	}
	return wait
}
