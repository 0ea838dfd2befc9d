package hooks

import (
	"strconv"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/system"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// OnSysInfoTick publishes the $SYS topics, retained: mochi's own, and the names that
// Mosquitto has for the same figures, which tools look for. What mochi has put into its
// own index goes: nobody is subscribed there.
func (h *Hook) OnSysInfoTick(info *system.Info) {
	if h.hub == nil {
		return
	}
	for topicName := range h.server.Topics.Retained.GetAll() {
		h.server.Topics.Retained.Delete(topicName)
	}
	s := h.hub.Stats()
	dropped := s.Dropped + s.DroppedQoS0
	figures := map[string]int64{
		"time": info.Time, "uptime": info.Uptime, "started": info.Started,
		"load/bytes/received": info.BytesReceived, "load/bytes/sent": info.BytesSent,
		"bytes/received": info.BytesReceived, "bytes/sent": info.BytesSent,
		"clients/connected": s.Online, "clients/active": s.Online,
		"clients/disconnected": s.Sessions - s.Online, "clients/inactive": s.Sessions - s.Online,
		"clients/total": s.Sessions, "clients/maximum": max(info.ClientsMaximum, s.Online), "clients/expired": s.ExpiredSessions,
		"packets/received": info.PacketsReceived, "packets/sent": info.PacketsSent,
		"messages/received": info.MessagesReceived, "messages/sent": info.MessagesSent,
		"publish/messages/received": info.MessagesReceived, "publish/messages/sent": info.MessagesSent,
		"messages/dropped": dropped, "publish/messages/dropped": dropped,
		"messages/inflight": s.Inflight, "store/messages/count": s.Inflight, "messages/stored": s.Retained,
		"retained": s.Retained, "retained messages/count": s.Retained, "retained messages/bytes": s.RetainedBytes,
		"subscriptions": s.Subscriptions, "subscriptions/count": s.Subscriptions,
		"system/memory": info.MemoryAlloc, "heap/current": info.MemoryAlloc, "system/threads": info.Threads,
	}
	for name, n := range figures {
		h.publishSys(name, strconv.FormatInt(n, 10), info.Time)
	}
	h.publishSys("version", "heartline (mochi "+info.Version+")", info.Time)
}

func (h *Hook) publishSys(name, value string, now int64) {
	// No limit applies to the server's own topics, so there is no error.
	_, _ = h.hub.Publish(&ordinary.Message{
		TopicName: mqtt.SysPrefix + "/broker/" + name, Payload: []byte(value), Retain: true, Created: now,
	})
}
