-- Format 1 of the schema. {schema} is the quoted name of the schema.
-- Names that clients choose are bytea: they sort as bytes do, whatever the locale, and
-- hold any byte.

CREATE TABLE {schema}.meta (
	one         boolean PRIMARY KEY DEFAULT true CHECK (one),
	format      int NOT NULL,
	min_version int NOT NULL DEFAULT 1,      -- no node of a lower version may join
	parts       int NOT NULL DEFAULT 1024,   -- partitions of the accounts: the remainder of a seq
	accepted    bigint NOT NULL DEFAULT 0,   -- of lives that have ended, like the next two
	finished    bigint NOT NULL DEFAULT 0,
	last        bigint NOT NULL DEFAULT 0
);
INSERT INTO {schema}.meta (format) VALUES (1);

-- The number of a node's life. It is never given twice.
CREATE SEQUENCE {schema}.incarnation;

-- One row per life of a node: membership and lease.
CREATE TABLE {schema}.node (
	node    bigint PRIMARY KEY,
	name    text NOT NULL,
	address text NOT NULL,                   -- for other nodes; empty: it wants to be alone
	version int NOT NULL,
	stream  int NOT NULL UNIQUE,             -- of its events
	expires timestamptz NOT NULL,            -- by the clock of the database
	leaving boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- One row per writer lane of a life: fence and counters in one. Every write updates it.
CREATE TABLE {schema}.fence (
	node     bigint NOT NULL,
	lane     smallint NOT NULL,
	session  int NOT NULL DEFAULT 0,         -- of the lane's connection; each new one raises it
	accepted bigint NOT NULL DEFAULT 0,
	finished bigint NOT NULL DEFAULT 0,
	last     bigint NOT NULL DEFAULT 0,      -- highest seq and event number
	PRIMARY KEY (node, lane)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

-- Who owns which partition of the accounts; written only when that changes.
CREATE TABLE {schema}.part (
	part  smallint PRIMARY KEY,
	node  bigint,                            -- NULL: free
	term  bigint NOT NULL DEFAULT 0,         -- raised at each change
	floor bigint NOT NULL DEFAULT 0          -- no seq or number up to here any more
) WITH (fillfactor = 50);
INSERT INTO {schema}.part SELECT generate_series(0, 1023);

CREATE TABLE {schema}.notification (
	seq     bigint NOT NULL,
	account bytea NOT NULL,
	content bytea NOT NULL,
	data    bytea,
	PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE INDEX notification_account ON {schema}.notification (account, seq);
ALTER TABLE {schema}.notification ALTER COLUMN data SET STORAGE EXTERNAL;

-- One row for all events of a notification in one commit.
CREATE TABLE {schema}.event (
	seq    bigint NOT NULL,
	number bigint NOT NULL,                  -- of the first
	lines  bytea NOT NULL,
	PRIMARY KEY (seq, number)
) PARTITION BY RANGE (seq);

-- The end of a delivery. A notification without devices has one row, with an empty device.
CREATE TABLE {schema}.final (
	seq    bigint NOT NULL,
	device bytea NOT NULL,
	at     bigint NOT NULL,                  -- nanoseconds since 1970
	value  bytea NOT NULL,
	PRIMARY KEY (seq, device)
) PARTITION BY RANGE (seq);
CREATE INDEX final_at ON {schema}.final USING brin (at);

-- The unfinished deliveries: the only table that churns.
CREATE TABLE {schema}.outstanding (
	part   smallint NOT NULL,
	device bytea NOT NULL,
	seq    bigint NOT NULL,
	record bytea NOT NULL,
	PRIMARY KEY (part, device, seq)
) WITH (autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE {schema}.dismissal (
	part   smallint NOT NULL,
	device bytea NOT NULL,
	seq    bigint NOT NULL,
	value  bytea NOT NULL,
	PRIMARY KEY (part, device, seq)
);

-- IDs that do not tell their seq.
CREATE TABLE {schema}.given_id (
	id  bytea PRIMARY KEY,
	seq bigint NOT NULL
);
CREATE INDEX given_id_seq ON {schema}.given_id USING brin (seq);

CREATE TABLE {schema}.device (
	device  bytea PRIMARY KEY,
	account bytea NOT NULL,
	entry   bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX device_account ON {schema}.device (account, device);

-- Who holds a push token. The token is a secret and can be long: it is hashed.
CREATE TABLE {schema}.token (
	hash   bytea PRIMARY KEY,
	device bytea NOT NULL,
	former bytea                             -- who held it before the latest claim
) WITH (fillfactor = 80);
CREATE INDEX token_device ON {schema}.token (device);

-- The order in which events became visible: a row per commit, which says where they are.
-- A stream has one writer at a time.
CREATE TABLE {schema}.stream (
	stream int PRIMARY KEY,
	number bigint NOT NULL DEFAULT 0         -- no commit up to here any more
);
INSERT INTO {schema}.stream (stream) VALUES (0);
CREATE TABLE {schema}.journal (
	stream int NOT NULL,
	number bigint NOT NULL,
	at     bigint NOT NULL,                  -- of its newest event, nanoseconds since 1970
	refs   bytea NOT NULL,
	PRIMARY KEY (stream, number)
);

-- State of ordinary MQTT.
CREATE TABLE {schema}.mqtt_state (
	key   bytea PRIMARY KEY,
	value bytea NOT NULL
);

-- own is the first statement of every write: it fails where another node has taken over,
-- and keeps others from taking over until the write has ended.
CREATE FUNCTION {schema}.own(n bigint, l smallint, s int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM 1 FROM {schema}.fence WHERE node = n AND lane = l AND session = s FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'node % is fenced off', n USING ERRCODE = 'HL001';
	END IF;
END $$;
