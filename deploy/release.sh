#!/usr/bin/env bash
# Builds the release of the checked-out commit into OUT (default dist/): static,
# reproducible programs, a .deb for each Linux architecture, an SBOM for each platform,
# and checksums. The version is the commit's tag, which Go writes into the program; a
# commit without one has the version of broker/version.go.
#
#   OUT=DIR                  where to, emptied first
#   PLATFORMS="linux/amd64"  which of the platforms
#   SBOM=no                  without the SBOMs, whose tool is a download
#   PAGES=kept               with the web pages as they are, built or not
#
# Two runs give the same bytes if the commit, Go, Node.js, tar, gzip and dpkg-deb are the
# same. Needs Linux, git, Go, npm (the pages are in the program) and dpkg-deb.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

die() { echo "release: $*" >&2; exit 1; }
for tool in git go dpkg-deb tar gzip sha256sum; do
	command -v "$tool" >/dev/null || die "$tool is missing"
done
git rev-parse --git-dir >/dev/null 2>&1 || die "the version comes from git: run this in a clone"
[ -z "$(git status --porcelain)" ] || [ -n "${DIRTY:-}" ] || die "the tree has changes that no commit has; commit them, or set DIRTY=1 for a try"
[ "${PAGES:-}" = kept ] || make --no-print-directory web >&2 # names npm if it is missing

out=${OUT:-dist}
platforms=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Files bear the commit's time.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=true" GOAMD64=v1 GOARM64=v8.0

# The program on this machine knows its version as the released ones do.
go build -o "$work/native" .
version=$("$work/native" version | sed -n '1s/^heartline \([^ ]*\).*/\1/p')
tag=$(git describe --tags --exact-match --match 'v*' 2>/dev/null || true)
if [ -n "$tag" ]; then
	[ "${version%+dirty}" = "${tag#v}" ] || die "the tag is $tag and the program says $version"
	! grep -q '^## \[Unreleased\]' CHANGELOG.md || die "CHANGELOG.md has changes under Unreleased: move them to [${tag#v}] before the tag"
	grep -qF "## [${tag#v}]" CHANGELOG.md || die "CHANGELOG.md has no section [${tag#v}]"
fi

for platform in $platforms; do
	os=${platform%/*} arch=${platform#*/}
	name=heartline_${version}_${os}_$arch
	program=heartline
	[ "$os" != windows ] || program=heartline.exe
	dir=$work/$name
	mkdir "$dir"
	GOOS=$os GOARCH=$arch go build -ldflags "-s -w -buildid=" -o "$dir/$program" .
	cp README.md LICENSE CHANGELOG.md heartline.example.yaml "$dir/"
	chmod 644 "$dir"/*.md "$dir/LICENSE" "$dir/heartline.example.yaml"
	tar --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$dir" -cf - "$program" README.md LICENSE CHANGELOG.md heartline.example.yaml | gzip -n9 >"$out/$name.tar.gz"
	[ "$os" != linux ] || deploy/deb/build.sh "$dir/$program" "$arch" "$version" "$out"
	# From the built program: what is linked in, not what go.mod mentions.
	[ "${SBOM:-}" = no ] || GOOS='' GOARCH='' GOFLAGS='' go run "$cyclonedx" bin -json -std -noserial -notimestamp -version "v$version" -output "$out/$name.cdx.json" "$dir/$program" 2>/dev/null ||
		die "the SBOM of $name: run go run $cyclonedx bin by hand to see why"
	echo "$name" >&2
done
(cd "$out" && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
