package hooks

import "strings"

// topics builds and reads the topic names below the prefix (contract §3).
type topics struct{ prefix string }

// kind is the last level of a topic name of ours.
type kind string

const (
	kindNotifications kind = "notifications"
	kindMessages      kind = "messages"
	kindAcks          kind = "acks"
	kindState         kind = "state"
	kindPushToken     kind = "push-token"
)

func (t topics) device(id string, k kind) string {
	return t.prefix + "/devices/" + id + "/" + string(k)
}

// within reports whether a topic name or filter lies below the prefix.
func (t topics) within(name string) bool {
	rest, ok := strings.CutPrefix(name, t.prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// parse reads a topic name below the prefix. Exactly one of device and account is
// set; ok is false for a name that contract §3 does not know.
func (t topics) parse(name string) (device, account string, k kind, ok bool) {
	rest, ok := strings.CutPrefix(name, t.prefix+"/")
	if !ok {
		return "", "", "", false
	}
	levels := strings.Split(rest, "/")
	if len(levels) != 3 || levels[1] == "" {
		return "", "", "", false
	}
	switch k = kind(levels[2]); {
	case levels[0] == "devices" && (k == kindNotifications || k == kindMessages || k == kindAcks || k == kindState || k == kindPushToken):
		return levels[1], "", k, true
	case levels[0] == "accounts" && k == kindNotifications:
		return "", levels[1], k, true
	}
	return "", "", "", false
}

// covers reports whether a device's filter asks for one of its own topics. It has
// to name the device: a monitor that listens to everything is no device.
func (t topics) covers(filter, id string, k kind) bool {
	rest, ok := strings.CutPrefix(filter, t.prefix+"/devices/"+id+"/")
	return ok && (rest == "#" || rest == "+" || rest == string(k) || rest == string(k)+"/#")
}

// overlaps reports whether a filter could match a topic below the prefix.
func (t topics) overlaps(filter string) bool {
	levels, own := strings.Split(filter, "/"), strings.Split(t.prefix, "/")
	for i, l := range levels {
		if l == "#" {
			return i > 0 || t.prefix[0] != '$' // [MQTT-4.7.2-1]
		}
		if i == len(own) {
			return true
		}
		if l != "+" && l != own[i] {
			return false
		}
	}
	return len(levels) >= len(own)
}
