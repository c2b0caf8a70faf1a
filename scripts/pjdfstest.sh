#!/bin/bash
# pjdfstest.sh UNIONFS [LIMIT]: runs pjdfstest on a mount and on the plain directory below it, prints each case that
# fails on the mount only, and exits 1 when those are more than LIMIT (default 0). OUT=DIR keeps both outputs;
# UNIONFS_TEST_OPTIONS are options for the mount.
set -euo pipefail
unionfs=$(readlink -f "${1:?usage: pjdfstest.sh UNIONFS [LIMIT]}"); limit=${2:-0}
here=$(cd "$(dirname "$0")/.." && pwd)
pjdfstest=$here/build/tools/bin/pjdfstest
[ -x "$pjdfstest" ] || { echo "pjdfstest.sh: no $pjdfstest: run scripts/setup.sh" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "pjdfstest.sh: it changes users: run as root" >&2; exit 2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/unionfs-test-pjdfstest.XXXXXX")
out=${OUT:-$work}; mkdir -p "$out"
cleanup() { mountpoint -q "$work/mnt" && umount -l "$work/mnt"; rm -rf "$work"; }
trap cleanup EXIT
# Other users must reach what lies below.
chmod 755 "$work"
mkdir -p "$work"/{plain,upper,lower/dir,mnt}

cat > "$work/config.toml" <<'T'
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
T

# The names of what failed, sorted; a run that did not end with a summary is an error.
run() {
    "$pjdfstest" -c "$work/config.toml" -p "$1" > "$out/$2.txt" 2>&1 || true
    grep -q '^Summary' "$out/$2.txt" || { echo "pjdfstest.sh: no summary from the run in $1:" >&2; tail -n 20 "$out/$2.txt" >&2; exit 2; }
    awk '$NF == "FAILED" {print $1}' "$out/$2.txt" | sort > "$work/$2.failed"
}

run "$work/plain" plain
"$unionfs" mount ${UNIONFS_TEST_OPTIONS:+-o "$UNIONFS_TEST_OPTIONS"} "$work/upper:$work/lower" "$work/mnt"
# Inside a directory of the lower branch, so that the cases happen in a merged one.
run "$work/mnt/dir" mount
umount "$work/mnt"

more=$(comm -13 "$work/plain.failed" "$work/mount.failed")
count=$(printf '%s' "$more" | grep -c . || true)
for name in $more; do
    echo "only on the mount: $name"
    grep -A1 "^$name " "$out/mount.txt" | sed -n 2p
done
echo "pjdfstest: plain: $(grep '^Summary' "$out/plain.txt")"
echo "pjdfstest: mount: $(grep '^Summary' "$out/mount.txt")"
echo "pjdfstest: $count cases fail on the mount only (limit $limit)"
[ "$count" -le "$limit" ]
