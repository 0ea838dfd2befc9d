package broker

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// httpConns tracks the HTTP connections (API and web pages) and bounds their number
// to the file descriptors that MQTT leaves free. A connection that became a
// WebSocket is counted by the gate instead.
type httpConns struct {
	limit int // 0: no limit

	mu      sync.Mutex
	open    map[net.Conn]*list.Element // its place in idle; nil: serving a request
	idle    list.List                  // no request so far, or none since the last; longest idle first
	evicted uint64
	closing bool // new connections are closed at once
}

func newHTTPConns(mqttConnections, files int) *httpConns {
	return &httpConns{limit: httpConnLimit(mqttConnections, files), open: map[net.Conn]*list.Element{}}
}

// httpConnLimit computes the limit from the process's file descriptors; 0 means no
// limit. Half of the descriptors that listener.Gate reserves stay free for the store
// and for pushes.
func httpConnLimit(mqttConnections, files int) int {
	if files == 0 {
		return 0
	}
	reserved := min(max(64, files/8), 1024)
	mqtt := max(1, files-reserved)
	if mqttConnections > 0 {
		mqtt = min(mqtt, mqttConnections)
	}
	return max(1, files-mqtt-reserved/2)
}

// onState is the server's http.Server.ConnState. A connection above the limit closes
// the one that has been idle for longest. If every connection serves a request, the
// new one is closed.
func (c *httpConns) onState(conn net.Conn, s http.ConnState) {
	if victim := c.track(conn, s); victim != nil {
		cut(victim)
	}
}

func cut(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn() // tls.Conn.Close writes an alert first and blocks on a peer that does not read
	}
	_ = conn.Close()
}

// closeIdle closes every connection that serves no request, and from now on each new
// one. http.Server.Shutdown waits up to 5 s for a connection that has sent nothing yet.
func (c *httpConns) closeIdle() {
	c.mu.Lock()
	c.closing = true
	var victims []net.Conn
	for e := c.idle.Front(); e != nil; e = e.Next() {
		victims = append(victims, e.Value.(net.Conn))
	}
	c.mu.Unlock()
	for _, v := range victims {
		cut(v)
	}
}

// track records the new state of conn and returns the connection to close, if any.
func (c *httpConns) track(conn net.Conn, s http.ConnState) (victim net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place, known := c.open[conn]
	switch {
	case s == http.StateNew && c.closing:
		return conn
	case s == http.StateNew:
		if c.limit > 0 && len(c.open) >= c.limit {
			c.evicted++
			longest := c.idle.Front()
			if longest == nil {
				return conn
			}
			victim = c.idle.Remove(longest).(net.Conn)
			delete(c.open, victim)
		}
		c.open[conn] = c.idle.PushBack(conn)
	case !known: // evicted a moment ago
	case s == http.StateIdle:
		c.open[conn] = c.idle.PushBack(conn)
	default:
		if place != nil {
			c.idle.Remove(place)
		}
		c.open[conn] = nil
		if s != http.StateActive {
			delete(c.open, conn)
		}
	}
	return victim
}

// figures returns the number of open connections and how many were evicted so far.
func (c *httpConns) figures() (open int, evicted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.evicted
}
