package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run has found. Times are in milliseconds, and latencies are of
// the messages that were due in the measured time.
type Result struct {
	Mode       string  `json:"mode"`
	Devices    int     `json:"devices"`
	Offline    int     `json:"offline"`
	Silent     int     `json:"silent"`
	Publishers int     `json:"publishers"`
	Inflight   int     `json:"inflight"`
	Payload    int     `json:"payload_bytes"`
	Rate       float64 `json:"rate_asked"` // 0: as fast as it goes

	Measured float64 `json:"measured_ms"`
	// Throughput is of messages delivered to devices a second, each counted once;
	// Accepted of those acknowledged to their senders.
	Throughput float64 `json:"delivered_per_s"`
	Accepted   float64 `json:"accepted_per_s"`

	Delivery Latency `json:"delivery"` // due until read by the device
	Accept   Latency `json:"accept"`   // due until acknowledged to the sender
	Lag      Latency `json:"lag"`      // due until written: how late the generator itself was

	// Totals are of the whole run, warm-up and end included.
	Totals Totals `json:"totals"`

	Generator Usage  `json:"generator"`
	Server    *Usage `json:"server,omitempty"`
	Idle      *Usage `json:"server_idle,omitempty"` // when all were connected and nothing was sent

	Connect float64  `json:"connect_ms"` // until every device was subscribed
	Storms  []Storm  `json:"storms,omitempty"`
	Return  *Storm   `json:"return,omitempty"`
	Lost    []string `json:"lost_examples,omitempty"`
	Refused string   `json:"refused_example,omitempty"`
	Dropped string   `json:"connection_lost_example,omitempty"`
}

// Totals are what became of the messages.
type Totals struct {
	Sent       int64 `json:"sent"`
	Accepted   int64 `json:"accepted"`
	Refused    int64 `json:"refused"`
	Unanswered int64 `json:"unanswered"`
	Delivered  int64 `json:"delivered"`
	Kept       int64 `json:"kept"` // accepted for devices that are offline or never acknowledge, and not delivered
	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	Repeated   int64 `json:"repeated"` // copies for devices that never acknowledge
	OutOfOrder int64 `json:"out_of_order"`
	Misrouted  int64 `json:"misrouted"`
	Foreign    int64 `json:"foreign"`          // messages of another run
	Dropped    int64 `json:"connections_lost"` // that nobody had asked for
}

// Latency in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`
}

// Usage is what a process has used in the measured time.
type Usage struct {
	User     float64 `json:"user_ms"`
	System   float64 `json:"system_ms"`
	Each     float64 `json:"cpu_us_per_message"`
	Cores    float64 `json:"cores"`
	Resident int64   `json:"resident_bytes,omitempty"` // at its end
}

// Storm is one time that devices came back at once.
type Storm struct {
	Devices int `json:"devices"`
	// Subscribed is when the last was subscribed again, Delivered when the last that
	// was kept had come.
	Subscribed float64 `json:"subscribed_ms"`
	Delivered  float64 `json:"delivered_ms,omitempty"`
	Messages   int64   `json:"messages,omitempty"`
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func newLatency(h *hdrhistogram.Histogram) Latency {
	at := func(p float64) float64 { return float64(h.ValueAtPercentile(p)) / 1000 }
	return Latency{Count: h.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}

func newUsage(from, to usage, took time.Duration, messages int64) *Usage {
	u := &Usage{User: milliseconds(to.user - from.user), System: milliseconds(to.system - from.system), Resident: to.resident}
	if took > 0 {
		u.Cores = float64(to.cpu()-from.cpu()) / float64(took)
	}
	if messages > 0 {
		u.Each = float64(to.cpu()-from.cpu()) / float64(time.Microsecond) / float64(messages)
	}
	return u
}

// Print writes it for people.
func (r *Result) Print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("devices", "%d, %d of them offline, %d that never acknowledge; connected in %.1f s", r.Devices, r.Offline, r.Silent, r.Connect/1000)
	if r.Idle != nil {
		line("idle", "server resident %.1f MB, %.0f B for each connected device", float64(r.Idle.Resident)/1e6, float64(r.Idle.Resident)/float64(max(r.Devices-r.Offline, 1)))
	}
	if r.Publishers > 0 {
		line("publishers", "%d, each %d in flight, %d bytes", r.Publishers, r.Inflight, r.Payload)
		line("throughput", "%.0f/s delivered, %.0f/s accepted, over %.1f s", r.Throughput, r.Accepted, r.Measured/1000)
		from := "from when a message was due"
		if r.Rate == 0 {
			from = "from when a message was sent, which was as soon as it could be"
		}
		fmt.Fprintf(w, "\nms, %s\n%-12s %9s %9s %9s %9s %9s %10s\n", from, "", "p50", "p90", "p99", "p99.9", "max", "messages")
		for _, l := range []struct {
			name string
			Latency
		}{{"delivered", r.Delivery}, {"accepted", r.Accept}, {"written", r.Lag}} {
			fmt.Fprintf(w, "%-12s %9.3f %9.3f %9.3f %9.3f %9.3f %10d\n", l.name, l.P50, l.P90, l.P99, l.P999, l.Max, l.Count)
		}
		t := r.Totals
		fmt.Fprintln(w)
		line("sent", "%d: %d accepted, %d refused, %d unanswered", t.Sent, t.Accepted, t.Refused, t.Unanswered)
		line("delivered", "%d; %d kept for devices that are offline or do not acknowledge", t.Delivered, t.Kept)
		line("lost", "%d", t.Lost)
		line("duplicated", "%d, and %d more to devices that never acknowledge", t.Duplicated, t.Repeated)
		line("out of order", "%d", t.OutOfOrder)
		if t.Misrouted+t.Foreign > 0 {
			line("others", "%d that went to the wrong device, %d that are not of this run", t.Misrouted, t.Foreign)
		}
	}
	if r.Totals.Dropped > 0 {
		line("connections", "%d lost; the first: %s", r.Totals.Dropped, r.Dropped)
	}
	for _, s := range r.Storms {
		line("storm", "%d devices reconnected at once: subscribed again after %.2f s", s.Devices, s.Subscribed/1000)
	}
	if s := r.Return; s != nil {
		line("return", "%d devices came back at once: subscribed after %.2f s, all %d messages delivered after %.2f s", s.Devices, s.Subscribed/1000, s.Messages, s.Delivered/1000)
	}
	if r.Refused != "" {
		line("refused", "for example: %s", r.Refused)
	}
	for _, l := range r.Lost {
		line("lost", "for example: %s", l)
	}
	cpu := func(name string, u *Usage) {
		if u != nil && u.User+u.System > 0 {
			line(name, "%.2f cores, %.1f µs of CPU a message (%.0f%% in the system)", u.Cores, u.Each, 100*u.System/(u.User+u.System))
		}
	}
	cpu("generator", &r.Generator)
	cpu("server", r.Server)
}
