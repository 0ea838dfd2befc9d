package broker

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// callers are the connections of the API and the web pages, up to the file
// descriptors that MQTT leaves them. Those that have become a WebSocket are counted
// by the gate instead.
type callers struct {
	most int // 0: no limit

	mu      sync.Mutex
	open    map[net.Conn]*list.Element // its place in waiting; nil: a call is under way
	waiting list.List                  // those that have sent no call, or none since the last; the longest first
	ended   uint64
}

func newCallers(mqttConnections, files int) *callers {
	return &callers{most: callersWithin(mqttConnections, files), open: map[net.Conn]*list.Element{}}
}

// callersWithin is how many there may be with so many file descriptors, 0 being no
// limit: half of what listener.Gate keeps free is left to the store and to pushes.
func callersWithin(mqttConnections, files int) int {
	if files == 0 {
		return 0
	}
	kept := min(max(64, files/8), 1024)
	mqtt := max(1, files-kept)
	if mqttConnections > 0 {
		mqtt = min(mqtt, mqttConnections)
	}
	return max(1, files-mqtt-kept/2)
}

// state is the server's http.Server.ConnState. One connection more than there may be
// closes the one that has been silent for longest, and is closed itself only where
// all are in the middle of a call.
func (c *callers) state(conn net.Conn, s http.ConnState) {
	if end := c.note(conn, s); end != nil {
		if t, ok := end.(*tls.Conn); ok {
			end = t.NetConn() // its own Close would write first, to somebody who may not read
		}
		_ = end.Close()
	}
}

func (c *callers) note(conn net.Conn, s http.ConnState) (end net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place, known := c.open[conn]
	switch {
	case s == http.StateNew:
		if c.most > 0 && len(c.open) >= c.most {
			c.ended++
			longest := c.waiting.Front()
			if longest == nil {
				return conn
			}
			end = c.waiting.Remove(longest).(net.Conn)
			delete(c.open, end)
		}
		c.open[conn] = c.waiting.PushBack(conn)
	case !known: // it has just made room
	case s == http.StateIdle:
		c.open[conn] = c.waiting.PushBack(conn)
	default:
		if place != nil {
			c.waiting.Remove(place)
		}
		c.open[conn] = nil
		if s != http.StateActive {
			delete(c.open, conn)
		}
	}
	return end
}

// figures are the connections at present, and those ended to make room.
func (c *callers) figures() (open int, ended uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.ended
}
