#!/bin/sh
# Runs the comparison with kernel overlay and the peers: scripts/bench.sh [--quick] [--only NAME,…] [--list] …
# Installs what it misses: Debian's packages, and fuse-overlayfs 2.0 of crates.io into build/tools.
set -eu
cd "$(dirname "$0")/.."

die() {
    echo "bench.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die "root is needed: to mount overlay and to drop caches"

# Package and a file of it, so that a machine which has them all asks no mirror.
missing=
while read -r package file; do
    [ -e "$file" ] || missing="$missing $package"
done <<LIST
debootstrap /usr/sbin/debootstrap
fuse-overlayfs /usr/bin/fuse-overlayfs
unionfs-fuse /usr/bin/unionfs-fuse
fuse3 /usr/bin/fusermount3
util-linux /usr/bin/setpriv
LIST
command -v git >/dev/null || missing="$missing git"
if [ -n "$missing" ]; then
    echo "bench.sh: installing$missing" >&2
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi
[ -x build/tools/bin/fuse-overlayfs ] ||
    cargo install --quiet --locked --root build/tools fuse-overlayfs@2.0.0

exec cargo bench --quiet --package unionfs --bench compare -- "$@"
