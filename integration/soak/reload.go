package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// reloadKind is a kind of change that a running server takes up.
type reloadKind struct {
	name string
	// change is called with 0, 1, 2 ... and makes two versions in turn.
	change  func(w *world, n int) error
	watched bool   // the server watches the file and needs no signal
	taken   string // its message when it has taken up a watched file
}

func reloadKinds() []reloadKind {
	pick := func(n int, a, b any) any {
		if n%2 == 0 {
			return a
		}
		return b
	}
	set := func(path string, a, b any) func(*world, int) error {
		return func(w *world, n int) error {
			return w.change(func(s settings) { s.set(path, pick(n, a, b)) })
		}
	}
	several := func(changes ...func(*world, int) error) func(*world, int) error {
		return func(w *world, n int) error {
			for _, c := range changes {
				if err := c(w, n); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return []reloadKind{
		{"windows", several(set("delivery.ack_window", "4s", "3s"), set("delivery.fallback_window", "12s", "10s")), false, ""},
		{"limits", several(set("mqtt.limits.subscriptions", 900, 1000), set("delivery.max_inflight_per_device", 20, 16), set("delivery.max_outstanding_per_device", 900, 1000)), false, ""},
		{"users", func(w *world, n int) error { return w.writeUsers(fmt.Sprint("guest-", n)) }, true, "INFO file reloaded"},
		{"certificates", func(w *world, _ int) error { return w.writeCertificate() }, true, "INFO certificates reloaded"},
		{"notification servers", several(
			set("fallback.apns.max_concurrent", 400, 500), set("fallback.fcm.timeout", "9s", "10s"), set("fallback.webpush.max_concurrent", 90, 100),
			func(w *world, n int) error {
				return w.change(func(s settings) {
					apps := []any{}
					if n%2 == 0 {
						apns := s["fallback"].(map[string]any)["apns"].(map[string]any)
						apps = append(apps, map[string]any{"topic": app + ".second", "key_file": apns["key_file"], "key_id": apns["key_id"], "team_id": apns["team_id"]})
					}
					s.set("fallback.apns.apps", apps)
				})
			}), false, ""},
		// At debug only for a moment: the messages about reloads must be in the log, and a
		// soak at debug would be one of the log.
		{"log level", several(set("log.level", "debug", "warn"), func(w *world, _ int) error { return w.reload(context.Background(), false) }, set("log.level", "info", "info")), false, ""},
		{"webhooks", func(w *world, n int) error {
			return w.change(func(s settings) {
				hooks := []any{w.webhook("steady", "*1", "*2", "*3"), w.webhook("shaky", "*4", "*5", "*6")}
				if n%2 == 0 {
					hooks = append(hooks, w.webhook("guest", "*7"))
				}
				s.set("receipts.webhooks", hooks)
			})
		}, false, ""},
		{"rules about ordinary topics", set("auth.acl",
			[]any{map[string]any{"filter": "soak/closed", "access": "deny"}, map[string]any{"filter": "soak/#", "access": "readwrite"}},
			[]any{map[string]any{"filter": "soak/#", "access": "readwrite"}}), false, ""},
	}
}

// reload makes the server take up the file, by the API or by SIGHUP, and returns when it
// has.
func (w *world) reload(ctx context.Context, bySignal bool) error {
	const message = "INFO configuration reloaded"
	if bySignal {
		said := w.server.logged(message)
		if err := w.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return err
		}
		return w.waitForLog(ctx, message, said)
	}
	status, body, err := w.server.call(ctx, http.MethodPost, "/v1/reload", "")
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("POST /v1/reload: %d %s", status, body)
	}
	return err
}

// waitForLog waits until the log has a message more often than before.
func (w *world) waitForLog(ctx context.Context, message string, before int) error {
	for deadline := time.Now().Add(patience); w.server.logged(message) == before; {
		if time.Now().After(deadline) {
			return fmt.Errorf("no %q in the log within %s", message, patience)
		}
		if !rest(ctx, 20*time.Millisecond) {
			return nil
		}
	}
	return nil
}

// reloadBroken has the server read a configuration with two mistakes. It must name both
// and refuse the whole.
func (w *world) reloadBroken(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	broken := w.settings.clone()
	broken.set("delivery.ttl", "soon")
	broken.set("delivery.ack_window", "1h")
	broken.set("log.level", "loud")
	if err := broken.write(w.file); err != nil {
		return err
	}
	w.broken++
	status, body, err := w.server.call(ctx, http.MethodPost, "/v1/reload", "")
	if err := w.settings.write(w.file); err != nil {
		return err
	}
	switch {
	case err != nil:
		return err
	case status != http.StatusUnprocessableEntity, !strings.Contains(string(body), "delivery.ttl"), !strings.Contains(string(body), "log.level"):
		return fmt.Errorf("a configuration with two mistakes: %d %s", status, body)
	}
	return nil
}

// reloads changes one thing after another until ctx ends.
func (l *load) reloads(ctx context.Context) {
	kinds := reloadKinds()
	for n := 0; rest(ctx, l.timing.other); n++ {
		kind := kinds[n%len(kinds)]
		name := "reload: " + kind.name
		err := kind.change(l.world, n/len(kinds))
		if err == nil && !kind.watched {
			err = l.world.reload(ctx, n/len(kinds)%2 == 1)
		}
		if err == nil && n%len(kinds) == 0 {
			name += ", and a broken configuration"
			err = l.world.reloadBroken(ctx)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			l.unexpected.countWith(name, err.Error())
		default:
			l.done.count(name)
		}
	}
}

// backups reads a backup now and then, and throws it away.
func (l *load) backups(ctx context.Context) {
	for rest(ctx, 10*l.timing.other) {
		begun := time.Now()
		status, body, err := l.world.server.call(ctx, http.MethodPost, "/v1/backup", "")
		if l.answered("backup", status, nil, err, http.StatusOK) {
			l.samples.add("backup", float64(time.Since(begun))/float64(time.Millisecond))
			if len(body) == 0 {
				l.unexpected.count("empty backup")
			}
		}
	}
}
