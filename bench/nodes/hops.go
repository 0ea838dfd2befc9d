//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/bench"
	"github.com/heartline-mqtt/heartline/internal/pgkit"
)

// way is one of a notification through two nodes, the first of which owns the account.
type way struct {
	name              string
	publisher, device int // the nodes that they are connected to
}

var ways = []way{
	{"accepted at its owner, device at the owner", 0, 0},
	{"accepted elsewhere, device at the owner", 1, 0},
	{"accepted at its owner, device elsewhere", 0, 1},
	{"both elsewhere", 1, 1},
}

const (
	hopDevices = 100
	hopRate    = 1000 // a second: at full speed fewer hops would make larger groups
)

// hops measures what each hop costs two nodes over one PostgreSQL, which stay the same for all
// ways.
func hops(ctx context.Context, pg *pgkit.Server, binary, dir string, rounds int, duration time.Duration) error {
	m := measurement{setting: setting{"", 2, true}, binary: binary, dir: filepath.Join(dir, "hops"), pg: pg, schema: "hops"}
	nodes, err := m.startAll(ctx)
	defer stop(nodes)
	if err != nil {
		return err
	}
	devices, err := m.ownedBy(ctx, "node0", hopDevices)
	if err != nil {
		return err
	}
	spent := make([][]float64, len(ways))
	database := make([][]float64, len(ways))
	for round := range rounds {
		for i, w := range ways {
			o := bench.Defaults()
			o.Address, o.PublisherAddress, o.Prefix = nodes[w.device].mqtt, nodes[w.publisher].mqtt, fmt.Sprint("hop", round, i)
			o.Devices, o.Device = len(devices), func(i int) string { return devices[i] }
			o.Publishers, o.Rate, o.Duration = 3, hopRate, duration
			before, err := cpuOf(nodes)
			if err != nil {
				return err
			}
			stored, err := pg.CPU()
			if err != nil {
				return err
			}
			r, err := bench.Run(ctx, o)
			if err != nil {
				return err
			}
			if t := r.Totals; t.Lost+t.Duplicated+t.OutOfOrder+t.Refused+t.Unanswered > 0 {
				return fmt.Errorf("faults: %+v", t)
			}
			after, err := cpuOf(nodes)
			if err != nil {
				return err
			}
			storedAfter, err := pg.CPU()
			if err != nil {
				return err
			}
			each := func(d time.Duration) float64 {
				return float64(d) / float64(time.Microsecond) / float64(r.Totals.Delivered)
			}
			spent[i], database[i] = append(spent[i], each(after-before)), append(database[i], each(storedAfter-stored))
		}
	}
	fmt.Fprintf(os.Stdout, "two nodes at %d notifications a second, medians of %d rounds:\n", hopRate, rounds)
	for i, w := range ways {
		slices.Sort(spent[i])
		slices.Sort(database[i])
		fmt.Fprintf(os.Stdout, "%-44s nodes %6.1f µs  database %6.1f µs\n", w.name, spent[i][rounds/2], database[i][rounds/2])
	}
	return nil
}

// ownedBy returns names of accounts that a node owns.
func (m *measurement) ownedBy(ctx context.Context, node string, n int) (names []string, err error) {
	db, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	for i := 0; len(names) < n; i++ {
		name := fmt.Sprintf("hop-%06d", i)
		_, owner, err := db.Owner(ctx, name)
		if err != nil {
			return nil, err
		}
		if owner == node {
			names = append(names, name)
		}
	}
	return names, nil
}
