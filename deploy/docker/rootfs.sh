#!/usr/bin/env bash
# rootfs.sh PROGRAM DIR: lays out the root file system of the image in DIR.
set -euo pipefail
program=$1 dir=$2
authorities=/etc/ssl/certs/ca-certificates.crt
[ -r "$authorities" ] || { echo "rootfs: $authorities is missing: apt-get install ca-certificates" >&2; exit 1; }
install -Dm755 "$program" "$dir/heartline"
# Apple, Google and the browsers' push services are reached by TLS.
install -Dm644 "$authorities" "$dir/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/none\nheartline:x:65532:0:Heartline:/data:/none\n' >"$dir/etc/passwd"
# Group 0, as OpenShift runs an image under a user of its own choice and group 0. The
# program makes its data directory inside, for itself alone.
install -dm770 -o 65532 -g 0 "$dir/data"
install -dm1777 "$dir/tmp"
