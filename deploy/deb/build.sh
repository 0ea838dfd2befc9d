#!/usr/bin/env bash
# build.sh PROGRAM ARCH VERSION DIR: writes DIR/heartline_VERSION_ARCH.deb.
#
# dpkg-deb and a directory, not nfpm: that brings a few hundred modules to write this one
# format, and dpkg-deb is wherever a .deb can be installed.
set -euo pipefail
program=$1 arch=$2 version=$3 out=$4
here=$(cd "$(dirname "$0")" && pwd)
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -Dm755 "$program" "$root/usr/bin/heartline"
install -Dm644 "$here/../heartline.service" "$root/lib/systemd/system/heartline.service"
install -Dm644 "$here/heartline.yaml" "$root/etc/heartline/heartline.yaml"
doc=$root/usr/share/doc/heartline
install -Dm644 -t "$doc" "$here/../../heartline.example.yaml" "$here/../../README.md"
install -Dm644 "$here/../../LICENSE" "$doc/copyright"
gzip -n9c "$here/../../CHANGELOG.md" >"$doc/changelog.gz"

mkdir -p "$root/DEBIAN"
# In a Debian version "-" begins the package's revision; "~" sorts before the release.
cat >"$root/DEBIAN/control" <<CONTROL
Package: heartline
Version: ${version//-/\~}
Architecture: $arch
Maintainer: The Heartline authors <maintainers@heartline.example>
Section: net
Priority: optional
Homepage: https://github.com/heartline-mqtt/heartline
Depends: init-system-helpers (>= 1.54~)
Recommends: ca-certificates
Installed-Size: $(du -sk --apparent-size "$root" | cut -f1)
Description: MQTT broker that gets notifications through
 Heartline publishes a notification over a device's live MQTT connection, asks a
 push server when no acknowledgement comes, and delivers again when the device
 returns. It can say what became of every notification.
CONTROL
echo /etc/heartline/heartline.yaml >"$root/DEBIAN/conffiles"
install -m755 -t "$root/DEBIAN" "$here/postinst" "$here/prerm" "$here/postrm"
(cd "$root" && find usr lib -type f | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@${SOURCE_DATE_EPOCH:?}" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/heartline_${version}_${arch}.deb" >/dev/null
