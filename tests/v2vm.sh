#!/bin/bash
# Runs a script in a virtual machine whose only cgroup hierarchy is version 2, whatever the host has.
#
#   tests/v2vm.sh [-i] SCRIPT [FILE…]
#
# SCRIPT is for /bin/sh (busybox) and runs as root; the FILEs lie in the guest where they lie here, programs with their
# shared libraries. The guest is Debian's cloud kernel under emulation (no KVM is needed) with a memory filesystem as root;
# with -i the root stays the initial ramdisk's, which pivot_root(2) cannot leave. What the guest prints comes out here,
# and the exit status is that of SCRIPT, or 99 if the guest never got so far.
#
# Programs that are missing are installed with apt-get. The kernel is kept in UCTR_GUEST_KERNEL (~/.cache/uctr-guest).
set -euo pipefail

initramfs=
if [ "${1:-}" = -i ]; then initramfs=yes; shift; fi
if [ $# -lt 1 ]; then sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "$0" >&2; exit 2; fi
script=$1; shift
cache=${UCTR_GUEST_KERNEL:-${XDG_CACHE_HOME:-$HOME/.cache}/uctr-guest}

install_missing() {
    local pair wanted=()
    for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio flock:util-linux; do
        command -v "${pair%%:*}" >/dev/null || wanted+=("${pair#*:}")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${wanted[@]}"; } >&2
}

# The kernel is a package that depends on the current one; its files are unpacked, not installed.
fetch_kernel() {
    local package
    [ ! -e "$cache/complete" ] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
    if [ -z "$package" ]; then
        apt-get update >&2
        package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
    fi
    rm -rf "$cache/kernel" "$cache/download"
    mkdir -p "$cache/download"
    (cd "$cache/download" && apt-get download "$package" >&2)
    dpkg-deb -x "$cache"/download/*.deb "$cache/kernel"
    rm -rf "$cache/download"
    touch "$cache/complete"
}

# PROGRAM or file, to the same place below the guest's root, with what the dynamic linker would load.
add_file() {
    local file library
    file=$(readlink -f "$1")
    install -D "$file" "$root$file"
    { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ )]*' | while read -r library; do
        [ -e "$root$library" ] || install -D "$(readlink -f "$library")" "$root$library"
    done
}

make_root() {
    local applet module
    mkdir -p "$root"/{bin,dev,etc,lib/modules,mnt,proc,root,run,sys,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    busybox --list | while read -r applet; do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
    printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    for module in fuse overlay; do
        find "$cache/kernel/lib/modules" -name "$module.ko*" -exec cp {} "$root/lib/modules/" \;
    done
    cp "$script" "$root/script"
    cat >"$root/begin" <<'GUEST'
#!/bin/busybox sh
# Process 1 of the guest.
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /lib/modules/*.ko*; do insmod "$module"; done
ip link set lo up
sh /script
echo "guest-status:$?"
poweroff -f
GUEST
    if [ -n "$initramfs" ]; then
        cp "$root/begin" "$root/init"
    else
        cat >"$root/init" <<'GUEST'
#!/bin/busybox sh
export PATH=/bin
mount -t tmpfs -o size=90% tmpfs /mnt
for entry in /*; do [ "$entry" = /mnt ] || cp -a "$entry" /mnt/; done
mkdir -p /mnt/mnt
exec switch_root /mnt /begin
GUEST
    fi
    chmod +x "$root/init" "$root/begin"
}

install_missing
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9; fetch_kernel; flock -u 9; exec 9>&-
work=$(mktemp -d /tmp/uctr-guest-XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
make_root
for file in "$@"; do add_file "$file"; done
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd"
kernel=$(ls "$cache"/kernel/boot/vmlinuz-* | tail -n 1)
timeout "${UCTR_GUEST_TIMEOUT:-180}" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m "${UCTR_GUEST_MEMORY:-1024}" \
    -nodefaults -nographic -no-reboot -serial stdio -kernel "$kernel" -initrd "$work/initrd" \
    -append 'console=ttyS0 quiet panic=-1' </dev/null | tr -d '\r' | tee "$work/output"
status=$(sed -n 's/^guest-status://p' "$work/output" | tail -n 1)
exit "${status:-99}"
