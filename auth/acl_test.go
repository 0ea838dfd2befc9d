package auth

import (
	"strings"
	"testing"
)

// TestACLMatch: what a rule's filter says of a topic name, and of a filter.
func TestACLMatch(t *testing.T) {
	cl := Client{Account: "anna", ID: "phone"}
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
		{"u/{account}/#", "u/anna/x", true, true},
		{"u/{account}/#", "u/ben/x", false, false},
		{"c/{device}", "c/phone", true, true},
	} {
		r := NewACL([]ACLRule{{TopicFilter: tt.rule}}, false).rules[0]
		if all, some := r.match(cl, strings.Split(tt.asked, "/")); all != tt.all || some != tt.some {
			t.Errorf("%s of %s: all %v, some %v", tt.rule, tt.asked, all, some)
		}
	}
	for _, name := range []string{"+", "#", "anna/x"} { // a name is no pattern
		cl.Account = name
		r := NewACL([]ACLRule{{TopicFilter: "u/%u"}}, false).rules[0]
		for _, asked := range []string{"u/anna", "u/+", "u/#", "u/anna/x"} {
			if all, _ := r.match(cl, strings.Split(asked, "/")); all {
				t.Errorf("u/%%u of a client named %s takes in %s", name, asked)
			}
		}
	}
}

// TestACLFirstMatch: the first rule that fits decides, for those it names.
func TestACLFirstMatch(t *testing.T) {
	cl := Client{Account: "anna", ID: "phone"}
	a := NewACL([]ACLRule{
		{Username: "ben", TopicFilter: "#", Read: true, Write: true},
		{TopicFilter: "secret/anna/#", Read: true},
		{TopicFilter: "secret/#"},
		{TopicFilter: "inbox", Write: true},
	}, false)
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
		if got := a.Reads(cl, tt.filter); got != tt.read {
			t.Errorf("reads %s: %v", tt.filter, got)
		}
		if got := a.Writes(cl, tt.filter); got != tt.write && !strings.ContainsAny(tt.filter, "+#") {
			t.Errorf("writes %s: %v", tt.filter, got)
		}
	}
}

// TestClosedACL: without a rule a device may use no ordinary topic, with one only what
// it says; services use all, and $SYS is theirs alone.
func TestClosedACL(t *testing.T) {
	anna, shop := Client{Account: "anna", ID: "phone"}, Client{Account: "shop", ID: "shop", Service: true}
	plus := Client{Account: "+49/1", ID: "p"}
	empty := NewACL(nil, true)
	tree := NewACL([]ACLRule{{TopicFilter: "users/{account}/#", Read: true, Write: true}}, true)
	all := NewACL([]ACLRule{{TopicFilter: "#", Read: true, Write: true}, {TopicFilter: "$SYS/#", Read: true}}, true)
	for _, tt := range []struct {
		acl    *ACL
		client Client
		filter string
		want   bool
	}{
		{empty, anna, "news", false}, {empty, anna, "#", false}, {empty, anna, "$SYS/#", false}, {empty, anna, "$share/g/news", false},
		{empty, shop, "news", true}, {empty, shop, "#", true}, {empty, shop, "$SYS/#", true},
		{tree, anna, "users/anna/x", true}, {tree, anna, "users/ben/x", false}, {tree, anna, "news", false}, {tree, shop, "users/ben/x", true},
		{tree, plus, "users/%2B49%2F1/x", true}, {tree, plus, "users/+49/1/x", false},
		{all, anna, "news", true}, {all, anna, "#", true}, {all, anna, "$SYS/broker/uptime", false}, {all, shop, "$SYS/broker/uptime", true},
		{all, anna, "$share/g/$SYS/#", false}, {all, anna, "$share/g/news", true},
	} {
		if got := tt.acl.Reads(tt.client, tt.filter); got != tt.want {
			t.Errorf("%s reads %s: %v", tt.client.Account, tt.filter, got)
		}
	}
	if empty.Writes(anna, "news") || !tree.Writes(anna, "users/anna/x") || tree.Writes(anna, "users/ben/x") || !empty.Writes(shop, "news") {
		t.Error("writes")
	}
}

func FuzzACL(f *testing.F) {
	f.Add("users/{account}/#", "anna", "phone", "users/+/x")
	f.Add("#", "+", "#", "$SYS/#")
	f.Fuzz(func(t *testing.T, rule, account, id, filter string) {
		c := Client{Account: account, ID: id}
		if NewACL(nil, true).Reads(c, filter) {
			t.Fatal("a closed ACL without rules lets a device read")
		}
		a := NewACL([]ACLRule{{TopicFilter: rule, Read: true, Write: true}}, true)
		if a.Reads(c, "$SYS/x") || a.Writes(c, "$SYS/x") {
			t.Fatal("a device reads $SYS")
		}
		if a.Writes(c, filter) && !strings.ContainsAny(filter, "+#") && !a.Reads(c, filter) && !strings.HasPrefix(strings.ToLower(filter), "$share/") {
			t.Fatal("a readwrite rule that only writes")
		}
	})
}

// TestACLCostsLittleForAReceiver: every receiver of every message is asked about.
func TestACLCostsLittleForAReceiver(t *testing.T) {
	a := NewACL([]ACLRule{{TopicFilter: "{account}/#", Read: true}}, true)
	c := Client{Account: "bob", ID: "phone"}
	if n := testing.AllocsPerRun(100, func() {
		if !a.Reads(c, "bob/kitchen/lamp") {
			t.Error("refused")
		}
	}); n > 1 { // the levels of the topic
		t.Errorf("%v allocations", n)
	}
}
