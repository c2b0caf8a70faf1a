#!/bin/bash
# A tour of both programs on real images: prints each command and its output, and stops at the first thing that is not
# as it should be. BIN=DIR says where the programs are (target/release); everything it makes is under build/demo.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${BIN:-target/release}" && pwd)
export PATH=$bin:$PATH UCTR_ROOT=$PWD/build/demo/store
work=$PWD/build/demo/union
begin=$SECONDS

title() { printf '\n\033[1m== %s\033[0m  (%s s)\n' "$*" $((SECONDS - begin)); }
note() { printf '   %s\n' "$*"; }
fail() { printf '\033[31mDEMO FAILED: %s\033[0m\n' "$*" >&2; exit 1; }
# Prints a command as it could be typed (to the terminal, whatever becomes of its output), then runs it.
exec 3>&1
typed() { printf '\033[36m$ %s\033[0m\n' "$*" >&3; }
run() {
    local word words=()
    for word in "$@"; do [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] && words+=("$word") || words+=("${word@Q}"); done
    typed "${words[@]}"
    "$@"
}
# want WHAT EXPECTED GOT
want() { [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"; note "ok: $1"; }

cleanup() {
    if mountpoint -q "$work/C"; then umount -l "$work/C"; fi
    uctr rm -f busy victim > /dev/null 2>&1 || true
}
trap cleanup EXIT

# Names, kinds, modes, owners, times of change and content of everything under a directory, as one number.
fingerprint() { (cd "$1" && { find . -printf '%p %y %m %U %G %s %T@ %C@ %l\n' | LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cat; } | sha256sum | cut -d ' ' -f 1); }

union_tour() {
    title "A union of two directories"
    rm -rf "$work"; mkdir -p "$work"/{A,B,C}; cd "$work"
    echo "a from A" > A/a; echo "x from A" > A/x; echo "b from B" > B/b; echo "x from B" > B/x; echo "y from B" > B/y
    local before; before=$(fingerprint B)
    run unionfs mount A:B C
    run unionfs branches C
    run ls C
    want "ls C" "a b x y" "$(ls C | xargs)"
    run cat C/x
    want "the first branch wins" "x from A" "$(cat C/x)"
    run rm C/b
    run ls -A A
    [ -e A/.wh.b ] || fail "no A/.wh.b"
    typed 'echo changed >> C/y; cat A/y'; echo changed >> C/y; cat A/y
    want "the copy is in A" "y from B changed" "$(xargs < A/y)"
    run unionfs umount C
    run unionfs mount A:B C
    want "b stays gone after a remount" "a x y" "$(ls C | xargs)"
    run unionfs umount C
    want "B was not written" "$before" "$(fingerprint B)"
    cd - > /dev/null
}

images_tour() {
    title "Two images of Debian's packages"
    scripts/images.sh
    if ! uctr images --format '{{.Repository}}:{{.Tag}}' | grep -qx debian:demo; then
        run uctr import build/images/busybox.tar busybox
        run uctr import build/images/debian-base.tar debian-base
        run uctr load -i build/images/debian.tar
    fi
    run uctr images
    uctr image inspect debian:demo | grep -A 5 '"Layers"' || fail "no RootFS.Layers"
    layers=$(fingerprint "$UCTR_ROOT/layers")
    note "fingerprint of all image layers: ${layers:0:16}…"
}

container_tour() {
    title "A container on the FUSE union: process 1 of its own"
    run uctr run --rm --fs fuse busybox ps
    want "its ps is process 1 and sees no other" "1" "$(uctr run --rm --fs fuse busybox ps -o pid | tail -n +2 | xargs)"
    run uctr run --rm --fs fuse busybox mount | head -n 3
    uctr run --rm --fs fuse busybox mount | grep -q ' on / type fuse' || fail "/ is no FUSE mount"

    title "Layers, whiteouts and opaque directories of a real image"
    run uctr run --rm --fs fuse debian:demo bash -c 'cat /etc/motd; ls -A /etc/apt; ls /etc/issue.net' || note "(no /etc/issue.net: the second layer deletes it)"
    want "the opaque directory shows only its own" "README" "$(uctr run --rm --fs fuse debian:demo ls -A /etc/apt)"
    if uctr run --rm --fs fuse debian:demo test -e /etc/issue.net; then fail "/etc/issue.net is there"; fi

    title "gcc compiles, python3 imports"
    run uctr run --rm --fs fuse debian:demo sh -c 'gcc -O2 -o /tmp/hello /usr/share/demo/hello.c && /tmp/hello'
    run uctr run --rm --fs fuse debian:demo python3 -c 'import json, sqlite3, ssl, sys; print(json.dumps({"python": sys.version.split()[0], "ssl": ssl.OPENSSL_VERSION}))'
    title "The command's exit status is uctr's"
    local status=0; run uctr run --rm --fs fuse busybox sh -c 'exit 42' || status=$?
    want "exit status" 42 "$status"
}

# The container's cgroup, for a controller, wherever this host has it.
cgroup_of() {
    local pid=$1 controller=$2 line mount
    line=$(grep -E "^[0-9]+:([^:]*,)?$controller(,[^:]*)?:" "/proc/$pid/cgroup" | cut -d: -f3)
    if [ -n "$line" ]; then
        mount=$(awk -v c="$controller" '{for (i = 7; i <= NF; i++) if ($i == "-" && $(i+1) == "cgroup" && (","$NF",") ~ ","c",") print $5}' /proc/self/mountinfo | head -n 1)
    else
        line=$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
        mount=$(awk '$9 == "cgroup2" || $8 == "cgroup2" {print $5}' /proc/self/mountinfo | head -n 1)
    fi
    echo "$mount$line"
}

quota_tour() {
    title "A quota: a busy loop held at 20 % of one CPU"
    uctr rm -f busy > /dev/null 2>&1 || true
    run uctr run -d --name busy --fs fuse --cpus 0.2 busybox sh -c 'while :; do :; done' > /dev/null
    local pid cgroup periods used percent
    pid=$(uctr inspect -f '{{.State.Pid}}' busy)
    cgroup=$(cgroup_of "$pid" cpu)
    note "cgroup: $cgroup"
    if [ -e "$cgroup/cpu.max" ]; then run cat "$cgroup/cpu.max"; else run cat "$cgroup/cpu.cfs_quota_us" "$cgroup/cpu.cfs_period_us"; fi
    sleep 5
    run cat "$cgroup/cpu.stat"
    # Used time over elapsed periods of 100 ms: the kernel's own counters, no clock of ours.
    periods=$(awk '$1 == "nr_periods" {print $2}' "$cgroup/cpu.stat")
    if [ -e "$cgroup/cpu.max" ]; then used=$(awk '$1 == "usage_usec" {print $2}' "$cgroup/cpu.stat")
    else used=$(($(cat "$(cgroup_of "$pid" cpuacct)/cpuacct.usage") / 1000)); fi
    percent=$((used / periods / 1000))
    note "used $used µs in $periods periods of 100 ms: $percent %"
    [ "$percent" -ge 15 ] && [ "$percent" -le 25 ] || fail "not held at 20 %"

    title "exec into it, logs, ps, stop"
    run uctr exec busy ps
    run uctr ps
    run uctr stop -t 1 busy > /dev/null
    run uctr rm busy > /dev/null
    if [ -d "$cgroup" ]; then fail "its cgroup is still there"; fi
}

writable_tour() {
    title "What a container changes is in its own layer"
    uctr rm -f victim > /dev/null 2>&1 || true
    run uctr run --name victim --fs fuse debian:demo sh -c 'rm /etc/debian_version; echo new > /etc/new; echo more >> /etc/bash.bashrc'
    local id diff; id=$(uctr inspect -f '{{.Id}}' victim); diff=$UCTR_ROOT/containers/$id/diff
    run find "$diff/etc" -mindepth 1 -printf '%P\n'
    for name in .wh.debian_version new bash.bashrc; do [ -e "$diff/etc/$name" ] || fail "no $name in the writable layer"; done
    run uctr rm victim > /dev/null
    if [ -e "$UCTR_ROOT/containers/$id" ]; then fail "the container's directory is still there"; fi

    title "Volumes"
    mkdir -p "$work/host"; echo "from the host" > "$work/host/file"
    run uctr run --rm --fs fuse -v "$work/host:/host:ro" -v /data busybox sh -c 'cat /host/file; echo kept > /data/x; cat /data/x; touch /host/no 2>&1; true'
    if [ -e "$work/host/no" ]; then fail "a read-only volume was written"; fi
    if grep -q " $work/host\| /data " /proc/self/mounts; then fail "a volume is in the host's mount table"; fi
    note "ok: no volume is in the host's mount table"
}

mkdir -p "$UCTR_ROOT"
union_tour
images_tour
container_tour
quota_tour
writable_tour
title "Nothing was left, and the image layers are what they were"
want "fingerprint of all image layers" "$layers" "$(fingerprint "$UCTR_ROOT/layers")"
if grep "$PWD/build/demo" /proc/self/mounts; then fail "mounts were left"; fi
want "containers left" "" "$(uctr ps -aq)"
printf '\n\033[32mDemo done in %s s.\033[0m\n' $((SECONDS - begin))
