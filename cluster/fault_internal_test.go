package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestFaultIsLoggedOnce: a database that is away for an hour brings a line and not
// thousands.
func TestFaultIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var f fault
	away, other := errors.New("away"), errors.New("no room")
	for _, err := range []error{nil, away, away, other, other, nil, nil, away} {
		f.tell(log, slog.LevelWarn, "not renewed", err)
	}
	if got := strings.Count(out.String(), "level=WARN"); got != 3 {
		t.Errorf("%d warnings, want 3:\n%s", got, &out)
	}
	if got := strings.Count(out.String(), "level=INFO"); got != 1 {
		t.Errorf("%d lines of its end, want 1:\n%s", got, &out)
	}
}
