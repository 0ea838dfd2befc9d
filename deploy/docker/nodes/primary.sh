#!/bin/sh
# The image runs it once, in a new data directory, before the server listens on TCP.
set -eu
secret() { cat "/run/secrets/$1"; }

printf 'host replication replicator samenet scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
psql -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres \
	-v replication="$(secret replication-password)" -v heartline="$(secret heartline-password)" <<'SQL'
CREATE ROLE replicator REPLICATION LOGIN PASSWORD :'replication';
CREATE ROLE heartline LOGIN PASSWORD :'heartline';
GRANT pg_monitor TO heartline; -- `heartline store status` tells whether the standby is synchronous
CREATE DATABASE heartline OWNER heartline;
SELECT FROM pg_create_physical_replication_slot('standby');
-- From the next start on, or the statements above would wait for the standby.
ALTER SYSTEM SET synchronous_standby_names = 'standby';
SQL
