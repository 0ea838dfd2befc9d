#!/bin/sh
# setup.sh [DIR]: makes the nodes' certificates, their authority, and the passwords of the
# database, in DIR (secrets/ beside this file). It changes nothing that is there.
set -eu
dir=${1:-$(dirname "$0")/secrets}
mkdir -p "$dir"
chmod 700 "$dir" # the containers' users may read the files, and nobody else gets here
cd "$dir"
umask 022

if [ ! -e ca.key ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout ca.key -out ca.pem -subj "/CN=Heartline nodes" \
		-addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" 2>/dev/null
	chmod 600 ca.key # no container has it: it signs further nodes
fi
for node in node-a node-b node-c; do
	[ ! -e "$node.pem" ] || continue
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout "$node.key" -out "$node.pem" -subj "/CN=$node" \
		-CA ca.pem -CAkey ca.key -addext "subjectAltName=DNS:$node" -addext "basicConstraints=critical,CA:FALSE" \
		-addext "extendedKeyUsage=serverAuth,clientAuth" 2>/dev/null
	chmod 644 "$node.key"
done
for role in postgres replication heartline; do
	[ -e "$role-password" ] || openssl rand -hex 24 >"$role-password"
done
# Both servers: the nodes take whichever is the primary.
[ -e database-url ] || printf 'postgres://heartline:%s@primary,standby/heartline?sslmode=disable&target_session_attrs=read-write\n' "$(cat heartline-password)" >database-url
