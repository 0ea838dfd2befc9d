package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say which database is used, and how.
type Options struct {
	// URL is a PostgreSQL URL or a keyword/value string, with or without a password.
	// It may name several hosts. It is never logged.
	URL string
	// Reread returns the URL as it is now. New connections take the user and the password from it;
	// nil: from URL.
	Reread func() (string, error)
	// Schema holds all tables (default heartline).
	Schema string
	// Name tells this node from others, for people (default: "heartline").
	Name string
	// Address is where other nodes reach this one. Empty: it must be the only one.
	Address string
	// Lease is how long a node without a sign of life keeps its partitions (default
	// 5s).
	Lease time.Duration
	// Slack is how much longer than it is asked to Prune may keep a notification: a
	// whole day is removed at once, when all of it is over, and what a few unfinished
	// ones hold up beyond Slack is removed one by one (default 24h). Negative: all are
	// removed one by one, as soon as they may.
	Slack time.Duration
	// Connections bounds those for reading (default 8); there is one more for
	// writing, and one for the lease.
	Connections int
	// Logger gets what an operator should know; default: nothing.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = "heartline"
	}
	if o.Name == "" {
		o.Name = "heartline"
	}
	if o.Lease == 0 {
		o.Lease = 5 * time.Second
	}
	if o.Slack == 0 {
		o.Slack = 24 * time.Hour
	}
	if o.Connections == 0 {
		o.Connections = 8
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// minServer is the oldest version of PostgreSQL that works: it detaches partitions
// while others use the table.
const minServer = 140000

const connectTimeout = 10 * time.Second

// DB is a database with Heartline's tables. Close it after the engines and nodes on it.
type DB struct {
	opts   Options
	config *pgx.ConnConfig
	pool   *pgxpool.Pool
	sql    statements
	log    *slog.Logger

	ctx    context.Context //nolint:containedctx // it ends with Close, and with it every read
	cancel context.CancelFunc

	daysMu sync.Mutex
	days   map[int64]bool // that have their tables

	pruneMu sync.Mutex
	round   time.Time           // what the round of Prune that is not over was asked for
	looked  map[int64]time.Time // when Prune last looked at a day
	swept   map[int64]sweep
	rowsFor time.Duration // how long a call of Prune passes over the rows of a day, about
}

// ErrURL is wrapped by the error of Open where Options.URL cannot be understood.
var ErrURL = errors.New("not a PostgreSQL URL")

// schemaName is what a schema may be called: it never needs to be quoted, but it is.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Connect opens a database, whatever tables it has. See Open.
func Connect(ctx context.Context, opts Options) (*DB, error) {
	opts = opts.withDefaults()
	if !schemaName.MatchString(opts.Schema) {
		return nil, fmt.Errorf("schema %q: a name has 1 to 63 of a-z, 0-9 and _, and begins with no digit", opts.Schema)
	}
	pc, err := pgxpool.ParseConfig(opts.URL)
	if err != nil {
		// Not err itself: it quotes the URL, whose password it may not have recognized.
		return nil, fmt.Errorf("%w: write it as postgres://user:password@host:5432/database?sslmode=verify-full", ErrURL)
	}
	d := &DB{opts: opts, config: pc.ConnConfig, sql: newStatements(opts.Schema), log: opts.Logger, days: map[int64]bool{}, looked: map[int64]time.Time{}, swept: map[int64]sweep{}, rowsFor: rowsFor}
	if d.config.ConnectTimeout == 0 {
		d.config.ConnectTimeout = connectTimeout
		if others := len(d.hosts()) - 1; others > 0 { // they may all be dead, and a lease be renewed at the last
			d.config.ConnectTimeout = min(connectTimeout, max(opts.Lease/2/time.Duration(others), time.Second))
		}
	}
	d.config.DialFunc = dialer(opts.Lease).DialContext
	d.config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // with several hosts: the primary
	d.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			d.log.Warn("PostgreSQL warns", "message", n.Message, "detail", n.Detail)
		}
	}
	d.name(d.config, "reads")
	pc.MaxConns = int32(opts.Connections)
	pc.MinConns = 0
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "10000"
	d.settings(pc.ConnConfig)
	pc.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		d.authenticate(c)
		neverCancel(c)
		return nil
	}
	pc.AfterConnect = keepCommits
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		d.cancel()
		return nil, d.explain(err)
	}
	if err := d.checkServer(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) name(c *pgx.ConnConfig, what string) {
	if _, given := d.config.RuntimeParams["application_name"]; !given || c != d.config {
		c.RuntimeParams["application_name"] = "heartline " + d.opts.Name + " " + what
	}
}

// hosts are those that the URL names, with their ports.
func (d *DB) hosts() []string {
	hosts := []string{net.JoinHostPort(d.config.Host, strconv.Itoa(int(d.config.Port)))}
	for _, f := range d.config.Fallbacks {
		if h := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); h != hosts[len(hosts)-1] {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// place is where the database is, without user and password.
func (d *DB) place() string { return strings.Join(d.hosts(), ", ") }

// Place says where the database is, for people: host, port, database and schema.
func (d *DB) Place() string {
	return fmt.Sprintf("%s, database %s, schema %s", d.place(), d.config.Database, d.opts.Schema)
}

func (d *DB) checkServer(ctx context.Context) error {
	var version int
	err := d.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version)
	switch {
	case err != nil:
		return d.explain(err)
	case version < minServer:
		return fmt.Errorf("PostgreSQL at %s is version %d.%d: Heartline needs %d or newer", d.place(), version/10000, version%10000, minServer/10000)
	}
	return nil
}

// Open opens a database. One without Heartline's tables gets them; one whose tables have
// another format is refused.
func Open(ctx context.Context, opts Options) (*DB, error) {
	d, err := Connect(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err = d.prepare(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) prepare(ctx context.Context) error {
	found, err := d.Format(ctx)
	if err != nil {
		return err
	}
	if found == 0 {
		if _, err := d.Migrate(ctx); err != nil {
			return err
		}
	} else if err := checkFormat(d.opts.Schema, found); err != nil {
		return err
	} else if err := d.checkOwner(ctx); err != nil {
		return err
	} else if err := d.addTables(ctx); err != nil {
		return err
	}
	return d.makeDays(ctx, time.Now())
}

// Interrupt ends every read, and every Open of an engine. Later ones fail. It does not wait.
func (d *DB) Interrupt() { d.cancel() }

// Close ends every read. It is safe to call twice.
func (d *DB) Close() {
	d.cancel()
	d.pool.Close()
}

// connectionCheck is how often, in milliseconds, the server looks whether the client of a
// waiting statement is still there. Without it each new attempt of a node keeps one more
// connection, while all of them wait for the same lock.
const connectionCheck = "2000"

// settings are those of every session, as far as the URL does not give them. What the database has for
// the role is meant for other programs: a timeout would end the removal of old days and the reading of
// a large backlog each time, and a stricter isolation fails writes of two nodes at once.
//
// The server notices within a lease and a half that a client is gone. Otherwise each connection of a
// node whose network was cut stays open for two hours, until the server takes no more connections.
func (d *DB) settings(c *pgx.ConnConfig) {
	alive := keepAlive(d.opts.Lease)
	for name, value := range map[string]string{
		"statement_timeout": "0", "lock_timeout": "0", "default_transaction_isolation": "read committed",
		"client_connection_check_interval": connectionCheck,
		"tcp_keepalives_idle":              strconv.Itoa(int(alive.Idle / time.Second)),
		"tcp_keepalives_interval":          strconv.Itoa(int(alive.Interval / time.Second)),
		"tcp_keepalives_count":             strconv.Itoa(alive.Count),
	} {
		_, given := c.RuntimeParams[name]
		if !given && !strings.Contains(c.RuntimeParams["options"], name) { // options=-c name=value
			c.RuntimeParams[name] = value
		}
	}
}

// keepAlive notices within a lease and a half that the other side is gone.
func keepAlive(lease time.Duration) net.KeepAliveConfig {
	patience := max(lease, 2*time.Second)
	return net.KeepAliveConfig{Enable: true, Idle: patience / 2, Interval: max(patience/8, time.Second), Count: 4}
}

// dial makes a connection of its own, such as a lane's. onNotice may be nil.
func (d *DB) dial(ctx context.Context, what string, params map[string]string, onNotice func(*pgconn.Notice)) (*pgx.Conn, error) {
	c := d.config.Copy()
	if logged := c.OnNotice; onNotice != nil {
		c.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
			logged(conn, n)
			onNotice(n)
		}
	}
	d.name(c, what)
	maps.Copy(c.RuntimeParams, params)
	d.settings(c)
	d.authenticate(c)
	neverCancel(c)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, d.explain(err)
	}
	return conn, nil
}

// keepCommits has the commits of a session kept where the role, or the database, wants them to return
// before they are on the disk: a crash must not bring back a node that was fenced off.
func keepCommits(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	return err
}

// authenticate has a connection use the present user and password: they may be renewed while
// Heartline runs.
func (d *DB) authenticate(c *pgx.ConnConfig) {
	if d.opts.Reread == nil {
		return
	}
	url, err := d.opts.Reread()
	if err == nil {
		var fresh *pgx.ConnConfig
		if fresh, err = pgx.ParseConfig(url); err == nil {
			c.User, c.Password = fresh.User, fresh.Password
			return
		}
		err = ErrURL // not err: it quotes the URL
	}
	d.log.Warn("URL of PostgreSQL not read again, connecting with the former password", "error", err)
}

// neverCancel has a connection send no request to cancel what runs on it: the server would make
// a commit that waits for a synchronous standby visible before the standby has it.
func neverCancel(c *pgx.ConnConfig) {
	var connected atomic.Bool
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, errors.New("requests to cancel are not sent")
		}
		return dial(ctx, network, addr)
	}
	c.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		connected.Store(true)
		return nil
	}
}

// dialer opens connections that break when the other side has been silent for a lease: after that
// long without its database a node is no owner any more, and should look for the
// database elsewhere. TCP by itself goes on for a quarter of an hour.
func dialer(lease time.Duration) *net.Dialer {
	patience := max(lease, 2*time.Second)
	return &net.Dialer{
		KeepAliveConfig: keepAlive(lease),
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { limitSilence(fd, patience) })
		},
	}
}

// hangUp closes a connection at once, whatever runs on it.
func hangUp(c *pgx.Conn) {
	_ = c.PgConn().Conn().Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx)
}
