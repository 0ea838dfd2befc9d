package broker

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
)

// unread is a State that must not be read.
type unread struct{ t *testing.T }

func (u unread) ScanState(prefix string, _ func(key string, value []byte) error) error {
	u.t.Errorf("the store was asked for %q", prefix)
	return nil
}

func (unread) ApplyState([]store.StateChange) error { return nil }

// A scrape does not ask the store about the webhooks of other nodes: its answer may take long.
func TestScrapeLeavesOtherNodesWebhooks(t *testing.T) {
	r, err := receipts.New(receipts.Options{
		State: unread{t}, Logger: slog.New(slog.DiscardHandler),
		Part: func(string) uint16 { return 7 }, Node: func(uint16) string { return "other" },
	}, []receipts.Webhook{{Name: "backend", URL: "https://backend.example/"}})
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan prometheus.Metric, 100)
	(&Broker{Heartline: &Heartline{receipts: r}}).receiptsFigures(scrape{ch})
	if len(ch) != 0 {
		t.Errorf("%d figures of a webhook that another node sends", len(ch))
	}
}
