#!/bin/bash
# fsx.sh UNIONFS [OPERATIONS [SEED]]: runs fsx on a mount: on a file that begins in the lower branch (overwritten in
# place, and truncated at the start) and on one that begins in the upper. Exits 1 at the first wrong byte.
set -euo pipefail
unionfs=$(readlink -f "${1:?usage: fsx.sh UNIONFS [OPERATIONS [SEED]]}"); operations=${2:-20000}; seed=${3:-1}
here=$(cd "$(dirname "$0")/.." && pwd)
fsx=$here/build/tools/bin/fsx
[ -x "$fsx" ] || { echo "fsx.sh: no $fsx: run scripts/setup.sh" >&2; exit 2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/unionfs-test-fsx.XXXXXX")
cleanup() { mountpoint -q "$work/mnt" && umount -l "$work/mnt"; rm -rf "$work"; }
trap cleanup EXIT
mkdir -p "$work"/{upper,lower/dir,mnt,artifacts}
size=$((256 * 1024))
for file in in-place truncated; do head -c $size /dev/urandom > "$work/lower/dir/$file"; done
before=$(cd "$work/lower" && find . -type f -exec sha256sum {} + | sort)

# config BLOCKMODE WEIGHT: what changes the size or reopens the file is no part of block mode.
config() {
    printf 'flen = %s\nblockmode = %s\nnosizechecks = %s\n[opsize]\nmax = 65536\n[weights]\n' $size "$1" "$1"
    printf 'read = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\nfsync = 0.2\nfdatasync = 0.2\npunch_hole = 2\n'
    printf 'sendfile = 2\nposix_fadvise = 1\ncopy_file_range = 2\nclose_open = %s\ntruncate = %s\nposix_fallocate = %s\n' "$2" "$3" "$3"
}
config true 0 0 > "$work/in-place.toml"
config false 1 5 > "$work/sized.toml"

"$unionfs" mount "$work/upper:$work/lower" "$work/mnt"
run() {
    if ! "$fsx" -q -f "$work/$1.toml" -N "$operations" -S "$seed" -P "$work/artifacts" "$work/mnt/$2" > "$work/log" 2>&1; then
        tail -n 40 "$work/log"
        echo "fsx: $2 failed (seed $seed)"
        exit 1
    fi
    echo "fsx: $operations operations on $2 (seed $seed)"
}
run in-place dir/in-place
run sized dir/truncated
run sized dir/new
umount "$work/mnt"
[ "$before" = "$(cd "$work/lower" && find . -type f -exec sha256sum {} + | sort)" ] || { echo "fsx: the lower branch was written"; exit 1; }
