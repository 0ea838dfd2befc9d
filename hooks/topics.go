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

// topicNames are the topic names of one device that the server writes.
type topicNames struct{ notifications, messages, acks string }

func (t topics) names(id string) topicNames {
	return topicNames{t.device(id, kindNotifications), t.device(id, kindMessages), t.device(id, kindAcks)}
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
	what, rest, _ := strings.Cut(rest, "/")
	who, last, _ := strings.Cut(rest, "/")
	if who == "" {
		return "", "", "", false
	}
	switch k = kind(last); {
	case what == "devices" && (k == kindNotifications || k == kindMessages || k == kindAcks || k == kindState || k == kindPushToken):
		return who, "", k, true
	case what == "accounts" && k == kindNotifications:
		return "", who, k, true
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
