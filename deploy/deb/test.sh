#!/usr/bin/env bash
# Plays the life of the .deb in a new Debian that systemd boots in a container: checked,
# installed, used, upgraded with notifications outstanding, removed with the data kept,
# installed again, purged. Needs root, debootstrap and systemd-nspawn.
#
#   DEBIAN_ROOT=DIR   a minimal Debian with systemd and curl; copied, not changed. Without
#                     it debootstrap makes one, which takes minutes
#   PROGRAM=FILE      the program to package; without it, it is built
set -euo pipefail
cd "$(dirname "$0")/../.."

die() { echo "package-test: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "must run as root: it makes a Debian and boots it (sudo make package-test)"
for tool in debootstrap:debootstrap systemd-nspawn:systemd-container dpkg-deb:dpkg; do
	command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: apt-get install ${tool#*:}"
done
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
if [ -n "${DEBIAN_ROOT:-}" ]; then
	cp -a "$DEBIAN_ROOT" "$root"
else
	echo "== make a Debian"
	debootstrap --variant=minbase --include=systemd,ca-certificates,curl bookworm "$root" >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log"; die "debootstrap failed"; }
fi

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
program=${PROGRAM:-$work/heartline}
[ -n "${PROGRAM:-}" ] || CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$program" .
mkdir "$root/packages"
arch=$(dpkg --print-architecture)
deploy/deb/build.sh "$program" "$arch" 0.0.1-rc.1 "$root/packages"
deploy/deb/build.sh "$program" "$arch" 0.0.1 "$root/packages"

# The pieces of docs/install.md: the drop-ins, in one file, the configuration with the secret,
# and the commands and the configuration of a users file.
sed -n '/^```ini deb$/,/^```$/p' docs/install.md | grep -v '^```' >"$root/packages/drop-in.conf"
sed -n '/^```yaml$/,/^```$/p' docs/install.md | grep -v '^```' >"$root/packages/apns.yaml"
sed -n '/^```sh users$/,/^```$/p' docs/install.md | grep -v '^```' >"$root/packages/users.sh"
sed -n '/^```yaml users$/,/^```$/p' docs/install.md | grep -v '^```' >"$root/packages/users.yaml"
install -m755 deploy/deb/test-inside.sh "$root/packages/test"
cat >"$root/etc/systemd/system/package-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/packages/test
ExecStopPost=/bin/systemctl --force poweroff
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../package-test.service "$root/etc/systemd/system/multi-user.target.wants/"
: >"$root/etc/machine-id"
# A network of its own: nothing of this machine is reached, and the usual ports are free.
timeout 300 systemd-nspawn --quiet --register=no --keep-unit --private-network --directory="$root" --boot --console=read-only </dev/null >"$work/boot.log" 2>&1 || true
if [ ! -f "$root/packages/report" ]; then
	tail -n 20 "$work/boot.log"
	die "systemd did not boot in a container here"
fi
cat "$root/packages/report"
grep -q '^package-test: passed$' "$root/packages/report" || die "failed, see the last lines above"
