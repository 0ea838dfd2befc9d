package pgstore

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Replication is what the database tells of its standbys.
type Replication struct {
	// Wanted is how many synchronous standbys each commit waits for; 0: for none.
	Wanted   int
	Attached int // of the synchronous standbys; not known where Hidden
	Standbys int // of all kinds
	// Hidden: the role may not see which standbys are synchronous.
	Hidden bool
}

// Away reports whether commits wait for a synchronous standby that is not attached.
func (r Replication) Away() bool {
	return r.Wanted > 0 && (r.Standbys < r.Wanted || !r.Hidden && r.Attached < r.Wanted)
}

// String says it for an operator.
func (r Replication) String() string {
	attached := r.Attached
	if r.Hidden {
		attached = r.Standbys
	}
	switch {
	case r.Away():
		return fmt.Sprintf("synchronous, but %d of %d standbys attached: commits wait, and notifications are refused", attached, r.Wanted)
	case r.Wanted > 0 && r.Hidden:
		return "unknown: this role may not see which standbys are synchronous: GRANT pg_monitor to it"
	case r.Wanted > 0:
		return "synchronous"
	case r.Standbys > 0:
		return "asynchronous"
	}
	return "none"
}

// Replication asks the database about its standbys.
func (d *DB) Replication(ctx context.Context) (r Replication, err error) {
	var commit, names string
	var hidden int
	err = d.pool.QueryRow(ctx, `
		SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), count(*),
		count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), count(*) FILTER (WHERE sync_state IS NULL)
		FROM pg_stat_replication`,
	).Scan(&commit, &names, &r.Standbys, &r.Attached, &hidden)
	if err != nil {
		return r, unavailable("ask for the standbys", err)
	}
	r.Hidden = hidden > 0
	if commit != "off" && commit != "local" {
		r.Wanted = standbysWanted(names)
	}
	return r, nil
}

// counted begins a value of synchronous_standby_names with a number of standbys.
var counted = regexp.MustCompile(`(?i)^(?:first\s+|any\s+)?(\d+)\s*\(`)

// standbysWanted reads synchronous_standby_names.
func standbysWanted(names string) int {
	names = strings.TrimSpace(names)
	if names == "" {
		return 0
	}
	if m := counted.FindStringSubmatch(names); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return 1
}
