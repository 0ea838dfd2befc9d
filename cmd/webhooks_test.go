package cmd

import (
	"strings"
	"testing"
)

// A list of parked events that is not whole says so.
func TestWebhooksParkedAtTheLimit(t *testing.T) {
	const one = `{"webhook_id":"w","event":"acked","time":"2026-01-01T00:00:00.000Z","attempts":9,"error":"answered 500"}`
	for n, want := range map[int]string{maxParked - 1: "", maxParked: "these are the oldest 1000; `heartline webhooks list` counts all\n"} {
		a := serveAPI(t, answer(200, `{"parked":[`+strings.Repeat(one+",", n-1)+one+`]}`))
		got := command(t, a.environ(), "", "webhooks", "parked", "backend")
		if got.code != 0 || got.stderr != want || strings.Count(got.stdout, "answered 500") != n {
			t.Errorf("%d events: exit %d, stderr %q, %d lines", n, got.code, got.stderr, strings.Count(got.stdout, "\n"))
		}
		if uri := a.requests()[0].uri; uri != "/v1/webhooks/parked?limit=1000&name=backend" {
			t.Errorf("asked for %s", uri)
		}
	}
}
