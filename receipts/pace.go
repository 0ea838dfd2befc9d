package receipts

import "time"

const (
	// catchUpRate is how many requests a second a webhook that is behind makes at first.
	catchUpRate = 1000
	// paceCheck is how often pace looks whether that is enough.
	paceCheck = 30 * time.Second
	// paceBurst is how much of the time that was not used can be made up for.
	paceBurst = 10 * time.Millisecond
)

// pace slows a webhook that catches up, so that its requests leave the processors to the
// notifications. The zero pace is at the beginning.
type pace struct {
	rate   float64   // requests a second
	next   time.Time // when the next may be made
	looked time.Time
	passed time.Time // of the event that was sent last then
}

// sends is called for each request, with the time of its event. A webhook that gets
// further behind, because events came faster than it sends them, sends twice as fast from
// then on.
func (p *pace) sends(now, event time.Time) {
	switch since := now.Sub(p.looked); {
	case p.rate == 0:
		*p = pace{rate: catchUpRate, looked: now, passed: event}
	case since >= paceCheck:
		if event.Sub(p.passed) < since {
			p.rate *= 2
		}
		p.looked, p.passed = now, event
	}
	p.next = latest(p.next, now.Add(-paceBurst)).Add(time.Duration(float64(time.Second) / p.rate))
}
