#!/usr/bin/env bash
# Builds the release of HEAD twice, in clones at different paths, each with its own time
# zone, umask and language, and compares every byte.
#
#   PLATFORMS, SBOM   as for release.sh: which platforms, and whether with the SBOMs
#   COLD=1            with an empty build cache for each; otherwise the cache is shared
set -euo pipefail
cd "$(dirname "$0")/.."
export PLATFORMS=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

build() { # DIR
	git clone --quiet --no-hardlinks . "$work/$1/heartline"
	[ -z "${COLD:-}" ] || export GOCACHE=$work/$1/cache
	OUT=$work/$1/out "$work/$1/heartline/deploy/release.sh" >"$work/$1/log" 2>&1 || { cat "$work/$1/log"; exit 1; }
}
(umask 077; export TZ=Pacific/Auckland LANG=de_DE.UTF-8; build one)
(umask 022; export TZ=UTC LANG=C; build a/longer/path/two)

if ! diff -r "$work/one/out" "$work/a/longer/path/two/out"; then
	echo "release-test: the two releases differ" >&2
	exit 1
fi
cat "$work/one/out/SHA256SUMS"
program=$(find "$work/one/out" -name "*_$(go env GOOS)_$(go env GOARCH).tar.gz")
tar -xzf "$program" -C "$work" heartline
if readelf -d "$work/heartline" 2>/dev/null | grep -q NEEDED; then
	echo "release-test: the program is not static" >&2
	exit 1
fi
"$work/heartline" version
echo "release-test: passed, two builds of $PLATFORMS are the same"
