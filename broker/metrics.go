package broker

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback"
)

// figures is a collector of what the parts count themselves: each scrape asks them.
type figures struct{ b *Broker }

// Describe implements prometheus.Collector: the names depend on the configuration.
func (figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	s := scrape{ch}
	f.b.storeFigures(s)
	pushFigures(s, f.b.router.Status())
	f.b.mqttFigures(s)
	f.b.deviceFigures(s)
	f.b.authFigures(s)
	f.b.xmppFigures(s)
	f.b.receiptsFigures(s)
	if f.b.node != nil {
		clusterFigures(s, f.b.node.node.Status(), f.b.cfg.Cluster.Lease)
		replicationFigures(s, f.b.node.replication.Load())
		if t := f.b.node.topics; t != nil {
			topicsFigures(s, t)
		}
	}
}

func clusterFigures(s scrape, st cluster.Status, lease time.Duration) {
	s.gauge("cluster_partitions", "Partitions of the accounts that this node serves, of 1,024.", float64(st.Owned))
	s.gauge("cluster_partitions_unserved", "Partitions that no node serves, as far as this one knows: their requests are held.", float64(st.Unserved))
	s.gauge("cluster_lease_age_seconds", "Time since this node renewed its lease.", time.Since(st.Renewed).Seconds())
	s.gauge("cluster_lease_seconds", "Length of the lease, cluster.lease. A node renews it ten times as often.", lease.Seconds())
	s.counter("cluster_takeovers_total", "Nodes that had stopped renewing their leases and that this one has fenced off.", float64(st.Takeovers))
	s.counter("cluster_fenced_total", "Times that this node was fenced off by another and joined again.", float64(st.Abandoned))
	s.counter("cluster_devices_moved_total", "Devices asked to connect to another node, because this one did not reach the owner of their account.", float64(st.Moved))
	for _, p := range st.Peers {
		s.gauge("cluster_relay_up", "1 while there is a relay to the node.", bit(p.Up), "node", p.Name)
		s.counter("cluster_relay_calls_total", "Calls to the node that owns an account.", float64(p.Calls), "node", p.Name)
		s.counter("cluster_relay_unanswered_total", "Calls that the node did not take or answer. They are repeated at the next owner.", float64(p.Unanswered), "node", p.Name)
	}
}

func topicsFigures(s scrape, t *sharedTopics) {
	s.counter("cluster_messages_forwarded_total", "Ordinary messages sent to another node.", float64(t.forwarded.Load()))
	s.counter("cluster_messages_received_total", "Ordinary messages that came from other nodes.", float64(t.received.Load()))
	s.counter("cluster_messages_dropped_total", "Ordinary messages to or from another node that were lost: too much waited.", float64(t.dropped.Load()))
	s.counter("cluster_sessions_moved_total", "Sessions of clients that were brought here from another node.", float64(t.moved.Load()))
}

// scrape sends figures out. Each name has one set of labels.
type scrape struct{ ch chan<- prometheus.Metric }

func (s scrape) counter(name, help string, v float64, labels ...string) {
	s.send(name, help, prometheus.CounterValue, v, labels)
}

func (s scrape) gauge(name, help string, v float64, labels ...string) {
	s.send(name, help, prometheus.GaugeValue, v, labels)
}

// send takes labels as name, value, name, value.
func (s scrape) send(name, help string, kind prometheus.ValueType, v float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	s.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("heartline_"+name, help, names, nil), kind, v, values...)
}

func (b *Broker) storeFigures(s scrape) {
	s.gauge("build_info", "1, with the version of Heartline and of Go.", 1, "version", Version(), "go", runtime.Version())
	st := b.outbox.Stats()
	s.gauge("unaccounted", "Deliveries accepted but neither finished nor unfinished in the store, at the last audit. Any value but 0 means a lost delivery.", float64(st.Unaccounted))
	s.counter("deliveries_accepted_total", "Deliveries accepted over the life of the store, at the last audit.", float64(st.Totals.Accepted))
	s.counter("deliveries_finished_total", "Deliveries finished over the life of the store, at the last audit.", float64(st.Totals.Finished))
	s.gauge("deliveries_unfinished", "Deliveries that are not finished, at the last audit.", float64(st.Unfinished))
	audited := 0.0
	if !st.AuditedAt.IsZero() {
		audited = float64(st.AuditedAt.Unix())
	}
	s.gauge("store_audit_timestamp_seconds", "When this node last audited the store, in Unix time; 0: not yet.", audited)
	s.gauge("store_ready", "1 while the store accepts notifications.", bit(b.outbox.Ready() == nil))
	s.gauge("store_queue", "Changes waiting to be written.", float64(st.Queued))
	s.gauge("store_free_bytes", "Free bytes for the store; 0 if not monitored.", float64(st.FreeBytes))
	s.counter("store_commits_total", "Changes committed.", float64(st.Commits))
	s.counter("store_writes_total", "Writes to the engine; a write commits a group of changes.", float64(st.Writes))
	s.counter("store_syncs_total", "Writes synced to the disk.", float64(st.Synced))
	s.counter("store_sync_seconds_total", "Time spent syncing writes to the disk.", st.SyncTime.Seconds())
	s.counter("store_failed_writes_total", "Writes that failed.", float64(st.Failed))
	s.counter("store_refused_total", "Notifications refused because the store was unavailable or full.", float64(st.Refused))
	s.counter("store_reopened_total", "Times the store failed and was reopened.", float64(st.Reopened))
	s.counter("store_pruned_total", "Notifications whose history was removed.", float64(st.Pruned))
}

// pushFigures sums the origins of an app: a push service's origin comes from a browser,
// and a series without its own origin label must appear once, or the whole scrape fails.
func pushFigures(s scrape, apps []fallback.AppStatus) {
	sums := map[fallback.App]*fallback.AppStatus{}
	for _, app := range apps {
		sum := sums[app.App]
		if sum == nil {
			sum = &fallback.AppStatus{State: app.State, Credentials: app.Credentials, Counts: map[fallback.Count]uint64{}}
			sums[app.App] = sum
		}
		if app.State != "ok" {
			sum.State = app.State
		}
		sum.Queue += app.Queue
		sum.InFlight += app.InFlight
		for c, n := range app.Counts {
			sum.Counts[c] += n
		}
	}
	for app, sum := range sums {
		labels := []string{"server", app.Server, "app", app.Name, "environment", app.Environment}
		s.gauge("push_queue", "Pushes queued.", float64(sum.Queue), labels...)
		s.gauge("push_in_flight", "Push requests in flight.", float64(sum.InFlight), labels...)
		s.gauge("push_ready", "1 while pushes to the app go out, to every push service.", bit(sum.State == "ok"), labels...)
		if ends := sum.Credentials.CertificateExpires; !ends.IsZero() {
			s.gauge("push_certificate_expiry_timestamp_seconds", "When the app's certificate expires, in Unix time.", float64(ends.Unix()), labels...)
		}
		for c, n := range sum.Counts {
			s.counter("pushes_total", "Answers of the notification server by outcome and reason.", float64(n), append(slices.Clip(labels), "outcome", c.Outcome, "reason", c.Reason)...)
		}
	}
}

func (b *Broker) mqttFigures(s scrape) {
	counts := &b.hook.Counters
	for code := range counts.Connacks {
		if n := counts.Connacks[code].Load(); n > 0 || code == 0 {
			s.counter("mqtt_connacks_total", "Answers to CONNECT, by reason code (MQTT 3.1.1: return code). 0x00: connected.", float64(n), "code", fmt.Sprintf("0x%02x", code))
		}
		if n := counts.RefusedBy[code].Load(); n > 0 {
			s.counter("mqtt_refusals_total", "Publishes refused, by the reason code of MQTT 5.", float64(n), "code", fmt.Sprintf("0x%02x", code))
		}
	}
	s.gauge("mqtt_clients", "Clients connected.", float64(b.hook.Connections()))
	s.counter("mqtt_accepted_total", "Notifications accepted over MQTT.", float64(counts.Ingress.Load()))
	s.counter("mqtt_refused_total", "Publishes refused: below the topic prefix, or by auth.acl.", float64(counts.Refused.Load()))
	s.counter("mqtt_connections_revoked_total", "Connections ended because their credentials expired or were revoked.", float64(counts.Revoked.Load()))
	s.counter("mqtt_devices_refused_total", "Subscriptions and publishes refused because the account has mqtt.limits.devices devices.", float64(counts.OverDevices.Load()))
	s.counter("mqtt_connects_refused_total", "CONNECTs refused because the client identifier belongs to another account, or is not one that the account may use.", float64(counts.RefusedConnects.Load()))
	s.counter("mqtt_foreign_acks_total", "Acks for a notification that was never sent to the device.", float64(counts.UnknownAcks.Load()))
	s.counter("mqtt_limited_total", "Publishes, subscriptions and connections refused by a limit of mqtt.limits.", float64(counts.Limited.Load()))
	o := b.hub.Stats()
	s.gauge("mqtt_sessions", "Sessions, connected and kept.", float64(o.Sessions))
	s.gauge("mqtt_subscriptions", "Subscriptions.", float64(o.Subscriptions))
	s.gauge("mqtt_retained", "Retained messages.", float64(o.Retained))
	s.gauge("mqtt_retained_bytes", "Bytes of retained messages.", float64(o.RetainedBytes))
	s.gauge("mqtt_ordinary_inflight", "Ordinary messages of QoS 1 and 2 that are queued or not acknowledged.", float64(o.Inflight))
	s.counter("mqtt_ordinary_sent_total", "Ordinary messages sent.", float64(o.Sent))
	s.counter("mqtt_ordinary_inflight_dropped_total", "Ordinary messages of QoS 1 and 2 dropped: over mqtt.limits.session_bytes or 8,192 messages for one session.", float64(o.Dropped))
	s.counter("mqtt_ordinary_dropped_total", "Ordinary messages of QoS 0 dropped for the same reason.", float64(o.DroppedQoS0))
	s.counter("mqtt_ordinary_too_large_total", "Ordinary messages not sent: over the client's Maximum Packet Size.", float64(o.TooLarge))
	s.counter("mqtt_ordinary_waited_total", "Times a publisher was paused until a receiver caught up.", float64(o.Waited))
	s.counter("mqtt_takeovers_total", "Sessions taken over from an earlier connection.", float64(o.Takeovers))
	if b.persist != nil {
		p := b.persist.Stats()
		s.gauge("mqtt_state_waiting", "Changes of ordinary MQTT state that are not on the disk yet.", float64(p.Waiting))
		s.gauge("mqtt_state_stalled", "1 while a write of ordinary MQTT state hangs.", bit(p.Stalled))
		s.counter("mqtt_state_changes_total", "Changes of ordinary MQTT state written.", float64(p.Written))
		s.counter("mqtt_state_failed_writes_total", "Writes of ordinary MQTT state that failed and are retried.", float64(p.Failed))
		s.counter("mqtt_state_restored_total", "Sessions, subscriptions and messages restored at the start.", float64(p.Restored))
		s.counter("mqtt_state_damaged_total", "Values of ordinary MQTT state that could not be read at the start.", float64(p.Damaged))
	}
	if b.httpConns != nil {
		open, evicted := b.httpConns.figures()
		s.gauge("http_connections", "Connections of the API and the web pages, without WebSockets.", float64(open))
		s.counter("http_evicted_total", "Connections of the API and the web pages that were closed to make room for another.", float64(evicted))
	}
	for id, stats := range b.listeners.stats() {
		listenerFigures(s, id, stats)
	}
}

func (b *Broker) deviceFigures(s scrape) {
	s.gauge("devices_up", "Devices whose channel is up.", float64(b.core.ChannelsUp()))
	if b.node == nil || b.node.trusted() == nil { // a database that answers nothing holds up every scrape
		if t, err := b.outbox.Totals(); err == nil {
			s.gauge("deliveries_outstanding", "Deliveries that are not finished, now.", float64(t.Accepted-t.Finished))
		}
	}
	n := b.census.read()
	if n.at.IsZero() {
		return
	}
	s.gauge("devices_known", "Devices in the registry, at the last count.", float64(n.devices))
	s.gauge("deliveries_waiting", "Deliveries that wait for their device's return, at the last count.", float64(n.waiting))
	age := 0.0
	if n.oldest != 0 { // a Seq is the time of acceptance
		age = max(0, time.Since(time.Unix(0, int64(n.oldest))).Seconds())
	}
	s.gauge("oldest_waiting_seconds", "Age of the oldest notification that waits for a device's return, by the last count; 0 without one.", age)
	s.gauge("count_timestamp_seconds", "When the devices and the waiting deliveries were last counted, in Unix time.", float64(n.at.UnixMilli())/1000)
}

func (b *Broker) authFigures(s scrape) {
	password, bearer := b.auth.Failures()
	for via, f := range map[string]auth.Failures{"password": password, "bearer": bearer} {
		s.counter("logins_failed_total", "Logins refused: by password (MQTT, HTTP Basic) or bearer token. denied: the credentials are wrong. unavailable: they could not be checked.", float64(f.Denied), "via", via, "reason", "denied")
		s.counter("logins_failed_total", "Logins refused: by password (MQTT, HTTP Basic) or bearer token. denied: the credentials are wrong. unavailable: they could not be checked.", float64(f.Unavailable), "via", via, "reason", "unavailable")
	}
	_, down := b.auth.Outage()
	s.gauge("auth_service_up", "0 while the service that decides on logins (auth.http.url, auth.jwt.jwks_url) gives no answers, otherwise 1.", bit(down == nil))
	for _, c := range b.certs {
		if expires := c.expires(); !expires.IsZero() {
			s.gauge("tls_certificate_expiry_timestamp_seconds", "When the certificate of a TLS listener expires, in Unix time.", float64(expires.Unix()), "listener", c.section)
		}
		if end := c.revocationsEnd(); !end.IsZero() {
			s.gauge("tls_revocations_expiry_timestamp_seconds", "When the first of a TLS listener's lists of revoked certificates is out of date, in Unix time.", float64(end.Unix()), "listener", c.section)
		}
	}
}

func listenerFigures(s scrape, id string, st listener.Stats) {
	s.gauge("connections", "Connections, including those before their CONNECT.", float64(st.Open), "listener", id)
	s.gauge("connections_pending", "Connections that have not sent their CONNECT.", float64(st.Pending), "listener", id)
	s.counter("connections_total", "Connections accepted.", float64(st.Accepted), "listener", id)
	for why, n := range map[string]uint64{
		"full": st.RefusedFull, "address": st.RefusedAddress, "evicted": st.Evicted, "accept_error": st.AcceptErrors,
		"connect_timeout": st.ConnectTimeouts, "handshake": st.HandshakeFailures, "handshake_timeout": st.HandshakeTimeouts,
		"text_frame": st.TextFrames, "write_timeout": st.WriteTimeouts, "slow": st.SlowConsumers, "kicked": st.Kicked,
	} {
		s.counter("connections_ended_total", "Connections that the server refused or ended, by reason.", float64(n), "listener", id, "reason", why)
	}
	s.counter("mqtt_slow_qos0_dropped_total", "QoS 0 messages dropped because the client reads too slowly.", float64(st.DroppedQoS0), "listener", id)
	for packet, n := range st.Panics {
		s.counter("mqtt_panics_total", "Panics under a connection that were recovered, by the packet being processed.", float64(n), "listener", id, "packet", packet)
	}
	for m, n := range st.Malformed {
		s.counter("mqtt_malformed_total", "Connections closed for a packet that MQTT forbids.", float64(n), "listener", id, "packet", m.Packet, "rule", m.Rule)
	}
}

// stats returns the counters of each listener that is on, by its ID.
func (l listeners) stats() map[string]listener.Stats {
	all := map[string]listener.Stats{}
	if l.tcp != nil {
		all[l.tcp.ID()] = l.tcp.Stats()
	}
	if l.tls != nil {
		all[l.tls.ID()] = l.tls.Stats()
	}
	if l.ws != nil {
		all[l.ws.ID()] = l.ws.Stats()
	}
	return all
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
