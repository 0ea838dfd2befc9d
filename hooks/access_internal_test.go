package hooks

import (
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
)

// TestAccessMatch: what a rule's filter says of a topic name, and of a filter.
func TestAccessMatch(t *testing.T) {
	cl := mqtt.New(nil).NewClient(nil, "t", "phone", false)
	cl.Properties.Username = []byte("anna")
	for _, tt := range []struct {
		rule, asked string
		all, some   bool
	}{
		{"a/b", "a/b", true, true},
		{"a/b", "a", false, false},
		{"a/b", "a/b/c", false, false},
		{"a", "a/b", false, false},
		{"a/+", "a/b", true, true},
		{"a/+", "a/+", true, true},
		{"a/+", "a/", true, true},
		{"a/+", "a/#", false, true},
		{"a/b", "a/+", false, true},
		{"a/b", "+/b", false, true},
		{"a/b", "+/c", false, false},
		{"a/b", "#", false, true},
		{"a/b", "a/b/#", false, true},
		{"a/b", "a/b/+", false, false},
		{"a/b", "a/b/c/#", false, false},
		{"a/#", "a", true, true},
		{"a/#", "a/b/c", true, true},
		{"a/#", "a/#", true, true},
		{"a/#", "+/b", false, true},
		{"a/#", "b/#", false, false},
		{"#", "#", true, true},
		{"#", "a/+/#", true, true},
		{"+/#", "#", false, true},
		{"#", "$SYS/x", false, false},
		{"+/x", "$SYS/x", false, false},
		{"$SYS/#", "#", false, false},
		{"$SYS/#", "$SYS/x", true, true},
		{"u/%u", "u/anna", true, true},
		{"u/%u", "u/ben", false, false},
		{"u/%u/#", "u/+/x", false, true},
		{"c/%c", "c/phone", true, true},
		{"c/%c", "c/%c", false, false},
	} {
		r := newAccess([]AccessRule{{TopicFilter: tt.rule}})[0]
		if all, some := r.match(cl, strings.Split(tt.asked, "/")); all != tt.all || some != tt.some {
			t.Errorf("%s of %s: all %v, some %v", tt.rule, tt.asked, all, some)
		}
	}
	for _, name := range []string{"+", "#", "anna/x"} { // a name is no pattern
		cl.Properties.Username = []byte(name)
		r := newAccess([]AccessRule{{TopicFilter: "u/%u"}})[0]
		for _, asked := range []string{"u/anna", "u/+", "u/#", "u/anna/x"} {
			if all, _ := r.match(cl, strings.Split(asked, "/")); all {
				t.Errorf("u/%%u of a client named %s takes in %s", name, asked)
			}
		}
	}
}

// TestAccessFirstMatch: the first rule that fits decides, for those it names.
func TestAccessFirstMatch(t *testing.T) {
	cl := mqtt.New(nil).NewClient(nil, "t", "phone", false)
	cl.Properties.Username = []byte("anna")
	a := newAccess([]AccessRule{
		{Username: "ben", TopicFilter: "#", Read: true, Write: true},
		{TopicFilter: "secret/anna/#", Read: true},
		{TopicFilter: "secret/#"},
		{TopicFilter: "inbox", Write: true},
	})
	for _, tt := range []struct {
		filter      string
		read, write bool
	}{
		{"news", true, true},
		{"inbox", false, true},
		{"secret/anna/1", true, false},
		{"secret/ben/1", false, false},
		{"secret/#", true, false},
		{"secret/+/x", true, false},
		{"secret/ben/#", false, false},
		{"$share/g/secret/ben/#", false, false},
		{"$SHARE/g/secret/anna/#", true, true},
		{"#", true, true},
	} {
		if got := a.reads(cl, tt.filter); got != tt.read {
			t.Errorf("reads %s: %v", tt.filter, got)
		}
		if got := a.writes(cl, tt.filter); got != tt.write && !strings.ContainsAny(tt.filter, "+#") {
			t.Errorf("writes %s: %v", tt.filter, got)
		}
	}
}
