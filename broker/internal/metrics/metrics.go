package metrics

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Metrics count. It is a delivery.Observer: give it to Core.Observe before the
// core's start. Everything is in a registry of its own, to which the other parts
// of the program add their collectors.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	events   [256]prometheus.Counter // by delivery.EventKind
	acks     map[delivery.EventKind]prometheus.Observer
	publish  prometheus.Observer
	pushes   map[string]pushObservers // by notification server
	problems *prometheus.CounterVec
	accepts  prometheus.Observer
	repeats  prometheus.Counter
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// pushObservers are by outcome: accepted, failed.
type pushObservers struct{ accepted, failed prometheus.Observer }

var _ delivery.Observer = (*Metrics)(nil)

// New returns Metrics that count from 0, of the Go runtime and the process
// as well.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), acks: map[delivery.EventKind]prometheus.Observer{}}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "heartline_events_total", Help: "Timeline events by kind.",
	}, []string{"event"})
	acks := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "heartline_ack_seconds", Help: "Time from a notification's acceptance to a device's ack, by kind of ack.",
		// From a device next door to one that comes back after a day.
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 3, 10, 30, 60, 600, 3600, 6 * 3600, 24 * 3600},
	}, []string{"ack"})
	publish := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "heartline_publish_seconds", Help: "Time from a notification's acceptance to its first publish to a device.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3, 10, 60, 600, 3600, 24 * 3600},
	})
	m.publish = publish
	pushes := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "heartline_push_request_seconds", Help: "Duration of a request to a notification server, by outcome.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"server", "outcome"})
	m.pushes = map[string]pushObservers{}
	for _, server := range []string{delivery.ServerAPNs, delivery.ServerFCM, delivery.ServerWebPush} {
		m.pushes[server] = pushObservers{pushes.WithLabelValues(server, "accepted"), pushes.WithLabelValues(server, "failed")}
	}
	m.problems = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "heartline_http_problems_total", Help: "HTTP requests answered with a problem, by its code.",
	}, []string{"code"})
	accepts := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "heartline_http_accept_seconds", Help: "Time to make a notification durable, for those accepted over HTTP.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	m.accepts = accepts
	m.repeats = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "heartline_http_repeats_total", Help: "Repeated requests: the id was accepted before with the same content.",
	})
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "heartline_http_requests_total", Help: "HTTP requests by method, route and status.",
	}, []string{"method", "route", "status"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "heartline_http_request_seconds", Help: "Duration of HTTP requests, without streams and batches.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"method", "route"})
	m.registry.MustRegister(events, acks, publish, pushes, m.problems, accepts, m.repeats, m.requests, m.seconds,
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: liveHeap})), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// All kinds from the start, at 0: a rate over a kind that has just appeared
	// would miss its first ones.
	for k := delivery.EventAccepted; k.String() != "unknown"; k++ {
		m.events[k] = events.WithLabelValues(k.String())
	}
	for _, k := range []delivery.EventKind{delivery.EventReceived, delivery.EventDisplayed} {
		m.acks[k] = acks.WithLabelValues(k.String())
	}
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, ErrorHandling: promhttp.ContinueOnError})
	return m
}

// liveHeap matches the heap after the last collection, go_gc_heap_live_bytes. The
// default figures count garbage, too, so a leak shows late in them.
var liveHeap = regexp.MustCompile(`^/gc/heap/live:bytes$`)

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Register adds collectors of other parts. It panics where two have one name.
func (m *Metrics) Register(cs ...prometheus.Collector) { m.registry.MustRegister(cs...) }

// Gatherer gives what /metrics shows.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Observe implements delivery.Observer.
func (m *Metrics) Observe(_ string, e delivery.Event) {
	if c := m.events[e.Kind]; c != nil {
		c.Inc()
	}
	// A Seq is the time of acceptance to the nanosecond, or a little more.
	if e.Kind == delivery.EventPublished {
		m.publish.Observe(max(0, e.Time.Sub(time.Unix(0, int64(e.Seq))).Seconds()))
	}
	if ack := m.acks[e.Kind]; ack != nil {
		ack.Observe(max(0, e.Time.Sub(time.Unix(0, int64(e.Seq))).Seconds()))
	}
}

// Pushed counts a request to a notification server.
func (m *Metrics) Pushed(server string, took time.Duration, err error) {
	o, known := m.pushes[server]
	switch {
	case !known: // a Pusher of a plugin's user
	case err == nil:
		o.accepted.Observe(took.Seconds())
	default:
		o.failed.Observe(took.Seconds())
	}
}

// Accepted counts a notification that came over HTTP and how long its acceptance took.
func (m *Metrics) Accepted(took time.Duration, repeated bool) {
	if repeated {
		m.repeats.Inc()
		return
	}
	m.accepts.Observe(took.Seconds())
}

// Served counts a request. The labels are bounded: a route is a pattern, a method
// one that it takes, a problem is a stable code or "".
func (m *Metrics) Served(method, pattern string, status int, problem string, took time.Duration) {
	if problem != "" {
		m.problems.WithLabelValues(problem).Inc()
	}
	_, route, ok := strings.Cut(pattern, " ")
	if !ok {
		route = pattern
	}
	if status == 0 {
		status = http.StatusOK
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	if route != "/v1/events" && route != "/v1/overview/stream" && route != "/v1/notifications/batch" {
		m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
	}
}
