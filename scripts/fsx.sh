#!/bin/bash
# fsx.sh UNIONFS FILE [OPTIONS [OPERATIONS [SEED]]]: runs fsx on one file of a mount that has these options: `in-place`
# begins in the lower branch and keeps its size, `truncated` begins there and is truncated first, `new` begins in the
# upper branch. Exits 1 at the first wrong byte.
set -euo pipefail
usage="usage: fsx.sh UNIONFS in-place|truncated|new [OPTIONS [OPERATIONS [SEED]]]"
unionfs=$(readlink -f "${1:?$usage}"); file=${2:?$usage}; options=${3:-io=stateless}; operations=${4:-20000}; seed=${5:-1}
here=$(cd "$(dirname "$0")/.." && pwd)
fsx=$here/build/tools/bin/fsx
[ -x "$fsx" ] || { echo "fsx.sh: no $fsx: run scripts/setup.sh" >&2; exit 2; }

# What changes the size or reopens the file is no part of block mode.
case $file in
    in-place) block=true reopen=0 resize=0 ;;
    truncated | new) block=false reopen=1 resize=5 ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
# In memory if there is some: what is tested is above the disk.
work=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/unionfs-test-fsx.XXXXXX")
cleanup() { mountpoint -q "$work/mnt" && umount -l "$work/mnt"; rm -rf "$work"; }
trap cleanup EXIT
mkdir -p "$work"/{upper,lower/dir,mnt,artifacts}
size=$((256 * 1024))
[ "$file" = new ] || head -c $size /dev/urandom > "$work/lower/dir/$file"
state_of_lower() { (cd "$work/lower" && find . -type f -exec sha256sum {} +); }
before=$(state_of_lower)

cat > "$work/config.toml" <<T
flen = $size
blockmode = $block
nosizechecks = $block
[opsize]
max = 65536
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
fsync = 0.2
fdatasync = 0.2
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
close_open = $reopen
truncate = $resize
posix_fallocate = $resize
T

"$unionfs" mount -o "$options" "$work/upper:$work/lower" "$work/mnt"
if ! "$fsx" -q -f "$work/config.toml" -N "$operations" -S "$seed" -P "$work/artifacts" "$work/mnt/dir/$file" > "$work/log" 2>&1; then
    tail -n 40 "$work/log"
    echo "fsx: $file with -o $options failed (seed $seed)"
    exit 1
fi
echo "fsx: $operations operations on $file with -o $options (seed $seed)"
umount "$work/mnt"
[ "$before" = "$(state_of_lower)" ] || { echo "fsx: the lower branch was written"; exit 1; }
