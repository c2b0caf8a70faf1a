#!/bin/bash
# Builds a Debian package of both programs, without debhelper, the same from the same input.
#   packaging/deb.sh PROGRAMS DOCS OUTPUT.deb
set -euo pipefail
programs=$1 docs=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml" | head -n 1)
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || stat -c %Y "$here/deb.sh")}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

"$here/install.sh" "$programs" "$docs" /usr "$stage"
strip --strip-unneeded --remove-section=.comment "$stage"/usr/bin/{unionfs,uctr}
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
find "$stage/usr/share/man" -type l | while read -r link; do
    ln -sf "$(readlink "$link").gz" "$link.gz"
    rm "$link"
done

# A statically linked program needs no C library, and says so by having no interpreter.
libc="libc6 (>= 2.34), "
for program in unionfs uctr; do
    readelf -lW "$stage/usr/bin/$program" | grep -q INTERP && dynamic=yes
done
[ "${dynamic:-}" = yes ] || libc=

doc=$stage/usr/share/doc/unionfs
install -d "$doc"
cat "$here/copyright" >"$doc/copyright"
{
    printf 'unionfs (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- unionfs maintainers <maintainers@unionfs.invalid>  %s\n' \
        "$version" "$(date -u -R -d "@$epoch")"
} | gzip -9n >"$doc/changelog.gz"
gzip -9nc "$here/../CHANGELOG.md" >"$doc/CHANGELOG.md.gz"

install -d "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: unionfs
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: unionfs maintainers <maintainers@unionfs.invalid>
Installed-Size: $(du -ks --exclude=DEBIAN "$stage" | cut -f1)
Depends: ${libc}fuse3
Recommends: uidmap
Conflicts: fuse-overlayfs, unionfs-fuse
Provides: fuse-overlayfs
Replaces: fuse-overlayfs, unionfs-fuse
Section: utils
Priority: optional
Description: union filesystem in userspace, and containers on it
 unionfs shows several directories as one: the first is writable, the others
 are not changed, whatever is done in the union. It takes the command lines of
 fuse-overlayfs, unionfs-fuse and aufs, serves Podman, Buildah and containerd
 as a mount program, and mount(8) as a helper.
 .
 uctr runs containers on such unions, without a daemon.
CONTROL
(cd "$stage" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"

find "$stage" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
mkdir -p "$(dirname "$output")"
SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Zxz --build "$stage" "$output" >/dev/null
echo "$output"
