#!/bin/bash
# commit.sh [ROUNDS]: how long `podman commit` takes after one changed file of a Debian image, over our program and over
# Debian's fuse-overlayfs, in turns; prints every round and the ratio of the medians (ours / theirs). Root.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-7}
for program in podman runc fuse-overlayfs; do
    command -v $program >/dev/null || [ -x /usr/sbin/$program ] || {
        echo "commit.sh: no $program: apt-get install it" >&2
        exit 1
    }
done
[ -z "${COMMIT_INSIDE:-}" ] && exec env COMMIT_INSIDE=1 unshare -m "$0" "$rounds"

cargo build --release --locked --quiet
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# It must have the name whose command line it is to understand.
mkdir "$dir/bin" && ln -s "$PWD/target/release/unionfs" "$dir/bin/fuse-overlayfs"
declare -A program=([ours]=$dir/bin/fuse-overlayfs [theirs]=$(command -v fuse-overlayfs))

engine() {
    local who=$1
    shift
    podman --log-level error --root "$dir/$who/root" --runroot "$dir/$who/run" --tmpdir "$dir/$who/tmp" \
        --storage-driver overlay --storage-opt overlay.mount_program="${program[$who]}" \
        --cgroup-manager cgroupfs --events-backend file --runtime /usr/sbin/runc "$@"
}

image=build/images/debian-base.tar
[ -e $image ] || scripts/images.sh
for who in ours theirs; do
    mkdir "$dir/$who"
    engine $who import -q $image localhost/base >/dev/null
done
: > "$dir/times"
for ((round = 1; round <= rounds; round++)); do
    # Who goes first changes each round.
    order="ours theirs"
    ((round % 2)) || order="theirs ours"
    for who in $order; do
        engine $who run --network none --ulimit nofile=20000:20000 --ulimit nproc=4096:4096 --name one \
            localhost/base sh -c 'echo changed >> /etc/motd'
        sync
        begun=$(date +%s%N)
        engine $who commit -q one localhost/changed >/dev/null
        took=$((($(date +%s%N) - begun) / 1000000))
        echo "$who $took" >> "$dir/times"
        engine $who rm -f one >/dev/null
        engine $who rmi -f localhost/changed >/dev/null
    done
    tail -n 2 "$dir/times" | sort | tr '\n' ' ' && echo ms
done
for who in ours theirs; do engine $who rmi -af >/dev/null 2>&1 || true; done
median() { awk -v who="$1" '$1 == who {print $2}' "$dir/times" | sort -n | awk '{at[NR] = $1} END {print at[int((NR + 1) / 2)]}'; }
ours=$(median ours) theirs=$(median theirs)
echo "median: ours $ours ms, fuse-overlayfs $theirs ms, ratio $(awk "BEGIN {printf \"%.2f\", $ours / $theirs}")"
