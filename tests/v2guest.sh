# Runs in the guest of v2vm.sh: limits on a pure version 2 hierarchy. UCTR is the program.
set -u
failed=0
check() { # NAME WANT GOT
    if [ "$2" = "$3" ]; then echo "ok $1"; else echo "FAILED $1: want [$2], got [$3]"; failed=1; fi
}
fails() { # NAME COMMAND…
    name=$1; shift
    if "$@"; then echo "FAILED $name: it succeeded"; failed=1; else echo "ok $name"; fi
}
uctr() { "$UCTR" --root /tmp/store "$@"; }
script() { uctr run --rm "$@"; }
group=/sys/fs/cgroup/uctr

tar -cf /tmp/image.tar -C / bin etc tmp
uctr import /tmp/image.tar busybox >/dev/null || exit 1
check hierarchy cgroup2fs "$(stat -f -c %T /sys/fs/cgroup 2>/dev/null | sed 's/0x63677270/cgroup2fs/; s/UNKNOWN.*/cgroup2fs/')"

for way in fuse overlay copy; do
    check "run $way" "1 hello" "$(script --fs $way busybox sh -c 'echo $$ hello')"
done

id=$(uctr run -d -m 64m --memory-swap 96m --cpus 0.2 --cpuset-cpus 1 --pids-limit 20 busybox sleep 1000)
check memory.max 67108864 "$(cat $group/$id/memory.max)"
# Swap is counted only where the kernel has some.
[ ! -e $group/$id/memory.swap.max ] || check memory.swap.max 33554432 "$(cat $group/$id/memory.swap.max)"
check cpu.max "20000 100000" "$(cat $group/$id/cpu.max)"
check cpuset.cpus 1 "$(cat $group/$id/cpuset.cpus)"
check pids.max 20 "$(cat $group/$id/pids.max)"
check "born in its group" 1 "$(wc -l <$group/$id/cgroup.procs)"
check "its own view" "0::/" "$(uctr exec $id cat /proc/self/cgroup)"
check "the view's files" 20 "$(uctr exec $id cat /sys/fs/cgroup/pids.max)"
fails "the view is read-only" uctr exec $id sh -c 'echo 30 2>/dev/null >/sys/fs/cgroup/pids.max'
uctr exec -d $id sleep 500
sleep 1
check "what joins is in the group" 2 "$(wc -l <$group/$id/cgroup.procs)"
check "processors used" 1 "$(uctr exec $id nproc)"
uctr rm -f $id >/dev/null
check "group gone" no "$([ -e $group/$id ] && echo yes || echo no)"

script -m 16m busybox tail /dev/zero; check "too much memory" 137 $?
uctr run --name oom -m 16m busybox tail /dev/zero
check "told as out of memory" true "$(uctr inspect -f '{{.State.OOMKilled}}' oom)"
uctr rm oom >/dev/null
script --pids-limit 4 busybox sh -c 'for i in 1 2 3 4 5 6; do sleep 9 & done' 2>/dev/null
check "too many processes" 2 $?

id=$(uctr run -d --cpus 0.2 busybox sh -c 'while :; do :; done')
used() { sed -n 's/^usage_usec //p' $group/$id/cpu.stat; }
before=$(used); sleep 3; after=$(used)
share=$(((after - before) / 30000)) # percent of one processor over three seconds
if [ $share -ge 5 ] && [ $share -le 30 ]; then echo "ok cpu quota: $share %"; else echo "FAILED cpu quota: $share %"; failed=1; fi
check throttled yes "$([ "$(sed -n 's/^nr_throttled //p' $group/$id/cpu.stat)" -gt 0 ] && echo yes)"
monitor=$(uctr inspect -f '{{.State.MonitorPid}}' $id)
kill -9 $monitor
sleep 1
uctr rm -f $id >/dev/null
check "groups gone after a killed monitor" no "$([ -e $group ] && echo yes || echo no)"
check "nothing mounted" 0 "$(grep -c /tmp/store /proc/mounts)"
exit $failed
