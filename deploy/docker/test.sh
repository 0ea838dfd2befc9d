#!/usr/bin/env bash
# Runs the root file system of the image as a container engine would: read-only, without a
# shell, as a user that the image does not know, without capabilities, in namespaces of
# its own. Needs root and Linux; no container engine.
#
#   PROGRAM=FILE   the program of the image; without it, it is built
set -euo pipefail
cd "$(dirname "$0")/../.."
die() { echo "image-test: $*" >&2; exit 1; }
if [ "${INSIDE:-}" != 1 ]; then
	[ "$(id -u)" = 0 ] || die "must run as root: it mounts and changes the user (sudo make image-test)"
	for tool in unshare:util-linux setpriv:util-linux ip:iproute2 curl:curl; do
		command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: apt-get install ${tool#*:}"
	done
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	export work INSIDE=1
	[ -n "${PROGRAM:-}" ] || { CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$work/heartline" .; export PROGRAM=$work/heartline; }
	unshare --mount --net --pid --fork --mount-proc "$0"
	exit
fi

ip link set lo up
chmod 755 "$work"
root=$work/root
mkdir "$root"
mount -t tmpfs -o size=300m rootfs "$root"
deploy/docker/rootfs.sh "$PROGRAM" "$root"
echo "== the image: $(du -sh --apparent-size "$root" | cut -f1)"
(cd "$root" && find . -type f | sort)
want=$'./etc/passwd\n./etc/ssl/certs/ca-certificates.crt\n./heartline'
[ "$(cd "$root" && find . -type f | sort)" = "$want" ] || die "there is more in the image than the program, the authorities and the user"

# What compose.yaml mounts. /data is a volume, everything else is read-only.
mkdir "$root/etc/heartline"
cp deploy/docker/heartline.yaml "$root/etc/heartline/"
mount -t tmpfs -o mode=770,uid=65532,gid=0 volume "$root/data"
mount -t tmpfs -o mode=1777 tmp "$root/tmp" # of serve --dev
mount -o remount,ro "$root"

# The user is no one in the image; its group is 0, as on OpenShift.
run() { setpriv --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all --no-new-privs chroot --userspec=12345:0 --groups= "$root" /heartline "$@"; }

echo "== users, as the first lines of compose.yaml make them"
printf 'correct horse battery\n' | run user add --file /data/users.yaml alice
token=$(run token create --file /data/users.yaml backend)
run config check --config /etc/heartline/heartline.yaml

echo "== serve"
run serve --config /etc/heartline/heartline.yaml >"$work/log" 2>&1 &
for _ in $(seq 300); do
	curl -fs -o /dev/null http://127.0.0.1:8080/readyz && break
	sleep 0.1
done
curl -fsS http://127.0.0.1:8080/readyz || { cat "$work/log"; die "not ready"; }
pid=$(pgrep -x heartline)
awk '/^(Uid|Gid|CapEff|NoNewPrivs)/' "/proc/$pid/status"
call() { curl -fsS -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "$@"; echo; }
call -X PUT http://127.0.0.1:8080/v1/accounts/alice/devices/phone -d '{}'
call http://127.0.0.1:8080/v1/notifications -d '{"id":"n-1","account":"alice","title":"Hello"}'
if touch "$root/etc/test" 2>/dev/null; then die "the root is writable"; fi

echo "== stop and start: the volume has it all"
kill -TERM "$pid"
wait || die "the stop failed: $(tail -n 3 "$work/log")"
run serve --config /etc/heartline/heartline.yaml >"$work/log" 2>&1 &
for _ in $(seq 300); do
	curl -fs -o /dev/null http://127.0.0.1:8080/readyz && break
	sleep 0.1
done
call http://127.0.0.1:8080/v1/notifications/n-1 | grep -F '"state":"waiting"'
kill -TERM "$(pgrep -x heartline)"
wait

echo "== try it out, as docs/install.md says"
run serve --dev >"$work/log" 2>&1 &
await() { # TEXT FILE
	for _ in $(seq 300); do
		! grep -qF "$1" "$2" || return 0
		sleep 0.1
	done
	cat "$2"
	die "$1 did not come"
}
await "heartline is ready" "$work/log"
run terminal --account alice --device phone >"$work/phone" 2>&1 &
await "is up" "$work/phone"
run send --account alice --title Hello --body "It works" --wait
await "Hello: It works" "$work/phone"
echo "image-test: passed"
