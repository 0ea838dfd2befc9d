//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// sizes prints what one node puts into the database: its tables with their indexes as they have
// grown, and the database's log.
func (m *measurement) sizes(ctx context.Context) (err error) {
	n, err := m.start(ctx, 0)
	if err != nil {
		return err
	}
	defer n.stop()
	const devices, notifications, payload = 10_000, 100_000, 256
	size := func(counted string) (float64, error) {
		text, err := m.pg.SQL("postgres", counted)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(text, 64)
	}
	tables := fmt.Sprintf("select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c join pg_namespace s on s.oid = c.relnamespace where s.nspname = '%s' and c.relkind in ('r', 'm')", m.schema)
	const log = "select pg_current_wal_insert_lsn() - '0/0'"
	for _, step := range []struct {
		what  string
		count float64
		flags []string
	}{
		{"device", devices, []string{"--prefix", "many", "--devices", fmt.Sprint(devices), "--publishers", "0", "--duration", "1s"}},
		{"finished notification", notifications, []string{"--prefix", "online", "--count", fmt.Sprint(notifications), "--payload", fmt.Sprint(payload)}},
		{"outstanding notification", notifications, []string{"--prefix", "away", "--devices", "1000", "--offline", "1", "--count", fmt.Sprint(notifications), "--payload", fmt.Sprint(payload)}},
	} {
		tablesBefore, err := size(tables)
		if err != nil {
			return err
		}
		logBefore, err := size(log)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, m.binary, append([]string{"bench", "--server", "mqtt://" + n.mqtt}, step.flags...)...) //nolint:gosec // the path is of our own making
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("the load: %w\n%s", err, out)
		}
		tablesAfter, err := size(tables)
		if err != nil {
			return err
		}
		logAfter, err := size(log)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "each %-25s %6.0f B of tables, %6.0f B of log (%.0f of them)\n", step.what, (tablesAfter-tablesBefore)/step.count, (logAfter-logBefore)/step.count, step.count)
	}
	return nil
}
