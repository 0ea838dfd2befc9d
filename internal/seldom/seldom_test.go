package seldom_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func TestRecordsAreClippedAndLimited(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		var l seldom.Log
		long := strings.Repeat("x", 100_000)
		for range 10_000 {
			l.Info(log, "refused", "path", long, "error", errors.New(long))
			l.Warn(log, "other")
		}
		if out.Len() > 40*1000 {
			t.Errorf("%d bytes", out.Len())
		}
		if n := strings.Count(out.String(), "msg=other"); n != 20 {
			t.Errorf("%d records of the other message", n)
		}
		time.Sleep(2 * time.Second)
		out.Reset()
		l.Info(log, "refused")
		if !strings.Contains(out.String(), "omitted=9980") {
			t.Error(out.String())
		}
		l.Info(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})), "refused")
	})
}
