#!/bin/bash
# Copies the primary, unless there is a copy, then follows it.
set -euo pipefail
PGPASSWORD=$(cat /run/secrets/replication-password)
export PGPASSWORD
if [ ! -d "$PGDATA" ]; then
	until rm -rf "$PGDATA.new" && pg_basebackup -d "host=primary user=replicator application_name=standby" -D "$PGDATA.new" -X stream -S standby -R; do
		sleep 1
	done
	# When it is the primary it has no standby, and waits for none.
	sed -i '/^synchronous_standby_names/d' "$PGDATA.new/postgresql.auto.conf"
	mv "$PGDATA.new" "$PGDATA"
fi
unset PGPASSWORD # it is in the configuration now
exec "$@"
