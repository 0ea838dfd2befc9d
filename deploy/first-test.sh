#!/usr/bin/env bash
# Times the way from a released archive to the first notification on a machine that has
# nothing: a root file system with the unpacked archive and an empty /tmp, no shell, no libc,
# no network but its loopback, an unprivileged user. The commands are those of the README's
# first screen. Needs root and Linux.
#
#   ARCHIVE=FILE   heartline_VERSION_linux_ARCH.tar.gz; without it, one is built as
#                  release.sh does, without SBOMs
set -euo pipefail
cd "$(dirname "$0")/.."
die() { echo "first-test: $*" >&2; exit 1; }
if [ "${INSIDE:-}" != 1 ]; then
	[ "$(id -u)" = 0 ] || die "must run as root: it changes the root and the user (sudo make first-test)"
	for tool in unshare:util-linux setpriv:util-linux ip:iproute2; do
		command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: apt-get install ${tool#*:}"
	done
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	if [ -z "${ARCHIVE:-}" ]; then
		OUT=$work/release PLATFORMS=linux/$(go env GOARCH) SBOM=no deploy/release.sh >"$work/log" 2>&1 || { cat "$work/log"; die "the release cannot be built"; }
		ARCHIVE=$(find "$work/release" -name '*.tar.gz')
	fi
	export work ARCHIVE INSIDE=1
	unshare --mount --net --pid --fork --mount-proc "$0"
	exit
fi

ip link set lo up
chmod 755 "$work"
root=$work/root
mkdir "$root"
run() { setpriv --no-new-privs chroot --userspec=12345:12345 --groups= "$root" /heartline "$@"; }
await() { # TEXT FILE
	for _ in $(seq 3000); do
		! grep -qF "$1" "$2" || return 0
		sleep 0.01
	done
	cat "$2"
	die "$1 did not come within 30 s"
}

begun=$(date +%s%N)
tar -xzf "$ARCHIVE" -C "$root"
mkdir -m1777 "$root/tmp"
(cd "$root" && find . -type f | sort)
run serve --dev >"$work/server" 2>&1 &
await "heartline is ready" "$work/server"
run terminal --account alice --device phone >"$work/phone" 2>&1 &
await "is up" "$work/phone"
run send --account alice --id hello --title Hello --body "It works" --wait | tee "$work/sent"
await "Hello: It works" "$work/phone"
took=$((($(date +%s%N) - begun) / 1000000))
grep -q '^Received by phone' "$work/sent" || die "the phone has not acknowledged"
echo "first-test: passed, $took ms from the archive ($(du -h --apparent-size "$ARCHIVE" | cut -f1)B) to the first notification"
