package hooks

import (
	"slices"
	"strings"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/wire"
)

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
	kindDismissals    kind = "dismissals"
	kindSignOut       kind = "sign-out"
	kindEvents        kind = "events" // of an account
)

// deviceKinds are those of a device's topics.
var deviceKinds = []kind{kindNotifications, kindMessages, kindDismissals, kindAcks, kindState, kindPushToken, kindSignOut}

func (t topics) device(id string, k kind) string {
	return t.prefix + "/devices/" + id + "/" + string(k)
}

// account is the notifications topic of an account.
func (t topics) account(name string) string {
	return t.prefix + "/accounts/" + wire.Level(name) + "/" + string(kindNotifications)
}

// events is the events topic of an account.
func (t topics) events(account string) string {
	return t.prefix + "/accounts/" + wire.Level(account) + "/" + string(kindEvents)
}

// topicNames are the topic names of one device that the server writes.
type topicNames struct{ notifications, messages, dismissals, acks string }

func (t topics) names(id string) topicNames {
	return topicNames{t.device(id, kindNotifications), t.device(id, kindMessages), t.device(id, kindDismissals), t.device(id, kindAcks)}
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
	of, rest, _ := strings.Cut(rest, "/")
	who, last, _ := strings.Cut(rest, "/")
	if who == "" {
		return "", "", "", false
	}
	switch k = kind(last); {
	case of == "devices" && slices.Contains(deviceKinds, k):
		return who, "", k, true
	case of == "accounts" && (k == kindNotifications || k == kindEvents):
		account, ok = wire.ParseLevel(who)
		return "", account, k, ok
	}
	return "", "", "", false
}

// refusals are the names under which a client may subscribe to its refusals topic: its
// identifier as it is, and escaped as accounts are.
func (t topics) refusals(clientID string) []string {
	names := []string{t.prefix + "/clients/" + wire.Level(clientID) + "/refusals"}
	if !strings.ContainsAny(clientID, "/+#") && strings.Contains(clientID, "%") {
		names = append(names, t.prefix+"/clients/"+clientID+"/refusals")
	}
	return names
}

// belowDevices reports whether a filter asks for topics of devices by name: a monitor
// that listens to everything does not.
func (t topics) belowDevices(filter string) bool {
	return strings.HasPrefix(filter, t.prefix+"/devices/")
}

// covers reports whether a device's filter asks for one of its own topics. It has
// to name the device: a monitor that listens to everything is no device.
func (t topics) covers(filter, id string, k kind) bool {
	rest, ok := strings.CutPrefix(filter, t.prefix+"/devices/"+id+"/")
	return ok && (rest == "#" || rest == "+" || rest == string(k) || rest == string(k)+"/#")
}

// coversOwn reports whether a device's filter asks for topics that the server writes
// for it.
func (t topics) coversOwn(filter, id string) bool {
	return t.covers(filter, id, kindNotifications) || t.covers(filter, id, kindMessages) || t.covers(filter, id, kindDismissals)
}

// concerns is overlaps for a filter of a SUBSCRIBE, which may be a shared one.
func (t topics) concerns(filter string) bool {
	_, inner := ordinary.SplitShare(filter)
	return t.overlaps(inner)
}

// overlaps reports whether a filter could match a topic below the prefix.
func (t topics) overlaps(filter string) bool {
	own := strings.Split(t.prefix, "/")
	levels := strings.SplitN(filter, "/", len(own)+1) // of what follows, the first level is enough
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
