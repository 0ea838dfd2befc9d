
-- Which tables have lost rows that must leave the disk, by any node.
CREATE TABLE IF NOT EXISTS {schema}.erased (
	day    bigint PRIMARY KEY,               -- days since 1970; -1: device and token
	since  timestamptz NOT NULL,
	latest timestamptz NOT NULL
);
