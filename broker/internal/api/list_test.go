package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

func TestNotificationsInPages(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	s.device("bob", "tablet")
	s.device("bob", "watch")
	var all []string
	for i := range 25 {
		account := []string{"alice", "bob"}[i%2]
		id := fmt.Sprintf("n%02d", i)
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":%q,"title":"x","id":%q}`, account, id)), 202, nil)
		all = append([]string{id}, all...)
	}
	s.want(s.do("DELETE", "/v1/notifications/n03", ""), 204, nil)
	s.want(s.do("POST", "/v1/notifications", `{"account":"bob","title":"x","id":"watch-only","devices":["watch"]}`), 202, nil)
	all = append([]string{"watch-only"}, all...)

	read := func(query string) (ids []string, pages int) {
		cursor := ""
		for {
			var page wire.NotificationList
			s.want(s.do("GET", "/v1/notifications?limit=7"+query+cursor, ""), 200, &page)
			pages++
			if len(page.Notifications) > 7 {
				t.Errorf("%d in a page of 7", len(page.Notifications))
			}
			for _, n := range page.Notifications {
				ids = append(ids, n.ID)
				if n.Timeline != nil {
					t.Error("a timeline in a list")
				}
			}
			if page.Next == "" {
				return ids, pages
			}
			cursor = "&cursor=" + page.Next
		}
	}
	if ids, pages := read(""); fmt.Sprint(ids) != fmt.Sprint(all) || pages != 4 {
		t.Errorf("%d pages: %v", pages, ids)
	}
	if ids, _ := read("&account=alice"); len(ids) != 13 || ids[0] != "n24" {
		t.Errorf("of alice: %v", ids)
	}
	if ids, _ := read("&device=tablet"); len(ids) != 12 || ids[0] != "n23" {
		t.Errorf("of the tablet: %v", ids)
	}
	if ids, _ := read("&state=cancelled"); fmt.Sprint(ids) != "[n03]" {
		t.Errorf("cancelled: %v", ids)
	}
	if ids, _ := read("&account=nobody"); ids != nil {
		t.Errorf("of nobody: %v", ids)
	}
	var page wire.NotificationList
	s.want(s.do("GET", "/v1/notifications", ""), 200, &page)
	if len(page.Notifications) != 26 || page.Next != "" {
		t.Errorf("%d in one page, next %q", len(page.Notifications), page.Next)
	}
	if r := s.do("GET", "/v1/notifications?account=nobody", ""); r.text != `{"notifications":[]}`+"\n" {
		t.Error(r.text)
	}
}

// TestNotificationsOfATime: since and until narrow a list, also over several pages.
func TestNotificationsOfATime(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	var at []string
	for i := range 10 {
		var a wire.Accepted
		s.want(s.do("POST", "/v1/notifications", fmt.Sprintf(`{"account":"alice","title":"x","id":"n%d"}`, i)), 202, &a)
		at = append(at, a.AcceptedAt)
		for wire.FormatTime(time.Now()) == a.AcceptedAt { // the next one is of another millisecond
			time.Sleep(time.Millisecond)
		}
	}
	read := func(query string) (ids string) {
		cursor := ""
		for {
			var page wire.NotificationList
			s.want(s.do("GET", "/v1/notifications?limit=2"+query+cursor, ""), 200, &page)
			for _, n := range page.Notifications {
				ids += n.ID + " "
			}
			if page.Next == "" {
				return ids
			}
			cursor = "&cursor=" + page.Next
		}
	}
	for query, want := range map[string]string{
		"&since=" + at[7]:                                   "n9 n8 n7 ",
		"&until=" + at[2]:                                   "n1 n0 ",
		"&since=" + at[3] + "&until=" + at[6]:               "n5 n4 n3 ",
		"&account=alice&since=" + at[4] + "&until=" + at[5]: "n4 ",
		"&since=2100-01-01T00:00:00Z":                       "",
	} {
		if got := read(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	s.want(s.do("GET", "/v1/notifications?since=yesterday", ""), 422, nil)
}
