package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// schemaName is what a schema of PostgreSQL may be called here.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// isPostgresURL checks the form. The error does not quote the text: it holds a password.
func isPostgresURL(b []byte) error {
	text := strings.TrimSpace(string(b))
	if _, err := pgconn.ParseConfig(text); err != nil || !strings.Contains(text, "=") && !strings.Contains(text, "://") {
		return errors.New("must hold a PostgreSQL URL, as in postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	return nil
}

// storeRules are those of data_dir, store, cluster and log.
func storeRules() []rule {
	type c = *Config
	always := func(c) bool { return true }
	postgres := func(c c) bool { return c.Store.Engine == EnginePostgres }
	return []rule{
		{"data_dir", []string{"store.engine"}, func(c c) (string, any) {
			return unless(c.DataDir != "" || c.Store.Engine == EngineMemory, "must name a directory (only store.engine memory does without)", c.DataDir)
		}},
		{"data_dir", nil, func(c c) (string, any) {
			return unless(!strings.HasPrefix(c.DataDir, "~") && !strings.HasPrefix(c.DataDir, "$"),
				"must be written out, as only a shell replaces ~ and $ at its beginning; for a directory of that name write ./ before it", c.DataDir)
		}},
		word("store.engine", func(c c) string { return c.Store.Engine }, EnginePebble, EngineJournal, EnginePostgres, EngineMemory),
		span("store.housekeeping", func(c c) time.Duration { return c.Store.Housekeeping }, time.Second, time.Hour),
		span("store.history", func(c c) time.Duration { return c.Store.History }, 0, 8760*time.Hour),
		{"store.history", []string{"store.housekeeping"}, func(c c) (string, any) {
			return unless(c.Store.History < 0 || c.Store.History >= c.Store.Housekeeping, fmt.Sprintf("must be at least store.housekeeping (%s), after which it is looked at", formatDuration(c.Store.Housekeeping)), c.Store.History)
		}},
		size("store.min_free", func(c c) ByteSize { return c.Store.MinFree }, 0, 1<<50),
		{"store.postgres.url_file", []string{"store.engine", "store.postgres.url"}, func(c c) (string, any) {
			return unless(!postgres(c) || c.Store.Postgres.URLFile != "" || c.Store.Postgres.URL != "",
				"must be set to a file with the URL of the database (or HEARTLINE_STORE_POSTGRES_URL) where store.engine is postgres", nil)
		}},
		oneOf("store.postgres.url_file", "HEARTLINE_STORE_POSTGRES_URL", func(c c) (string, Secret) { return c.Store.Postgres.URLFile, c.Store.Postgres.URL }),
		holds("store.postgres.url_file", postgres, func(c c) string { return c.Store.Postgres.URLFile }, isPostgresURL),
		contains("store.postgres.url", postgres, func(c c) Secret { return c.Store.Postgres.URL }, isPostgresURL),
		{"store.postgres.schema", nil, func(c c) (string, any) {
			return unless(schemaName.MatchString(c.Store.Postgres.Schema), "must have 1 to 63 of a-z, 0-9 and _, and begin with no digit", c.Store.Postgres.Schema)
		}},
		count("store.postgres.lanes", func(c c) int { return c.Store.Postgres.Lanes }, 1, 1),
		address("cluster.address", func(c c) string { return c.Cluster.Address }),
		address("cluster.advertise", func(c c) string { return c.Cluster.Advertise }),
		{"cluster.address", []string{"store.engine"}, func(c c) (string, any) {
			return unless(c.Cluster.Address == "" || postgres(c), "must not be set without store.engine postgres: several nodes share a database", c.Cluster.Address)
		}},
		{"cluster.advertise", []string{"cluster.address"}, func(c c) (string, any) {
			host, port, _ := net.SplitHostPort(cmp.Or(c.Cluster.Advertise, c.Cluster.Address))
			ip, err := netip.ParseAddr(host)
			return unless(c.Cluster.Address == "" || c.Cluster.Advertise == "" && port == "0" || host != "" && port != "0" && (err != nil || !ip.IsUnspecified()),
				"must be set to the host:port under which other nodes reach this one, as cluster.address names none", nil)
		}},
		{"cluster.tls", []string{"cluster.address", "cluster.tls.cert_file", "cluster.tls.key_file", "cluster.tls.ca_file"}, func(c c) (string, any) {
			t := c.Cluster.TLS
			n := set(t.CertFile) + set(t.KeyFile) + set(t.CAFile)
			host, _, _ := net.SplitHostPort(c.Cluster.Address)
			return unless(n == 3 || n == 0 && (c.Cluster.Address == "" || loopback.Host(host)),
				"must have cert_file, key_file and ca_file: nodes tell each other everything, and obey (only on loopback all three may be left out)", nil)
		}},
		readable("cluster.tls.cert_file", always, func(c c) string { return c.Cluster.TLS.CertFile }),
		readable("cluster.tls.key_file", always, func(c c) string { return c.Cluster.TLS.KeyFile }),
		keyPair("cluster.tls.cert_file", "cluster.tls.key_file", always, func(c c) (string, string) { return c.Cluster.TLS.CertFile, c.Cluster.TLS.KeyFile }),
		certificates("cluster.tls.ca_file", always, func(c c) string { return c.Cluster.TLS.CAFile }),
		{"cluster.name", nil, func(c c) (string, any) {
			return unless(len(c.Cluster.Name) <= 128 && !strings.ContainsFunc(c.Cluster.Name, unicode.IsControl), "must have at most 128 bytes without control characters", c.Cluster.Name)
		}},
		span("cluster.lease", func(c c) time.Duration { return c.Cluster.Lease }, 2*time.Second, time.Minute),
		span("cluster.drain", func(c c) time.Duration { return c.Cluster.Drain }, 0, 10*time.Minute),
		word("log.level", func(c c) string { return c.Log.Level }, "debug", "info", "warn", "error"),
		word("log.format", func(c c) string { return c.Log.Format }, FormatText, FormatJSON),
	}
}
