#!/bin/bash
# Installs what building, testing and the demo need and this machine lacks. Does nothing, quickly, when nothing is missing.
#   scripts/setup.sh          everything
#   scripts/setup.sh demo     only what `make demo` needs
# Debian 12 or later, root, and Rust are taken for granted; all else comes from the package registries.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/build/tools

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# PROGRAM:PACKAGE, where the program (or the file) proves that the package is there.
demo="gcc:gcc /usr/include/stdio.h:libc6-dev make:make fusermount3:fuse3 busybox:busybox-static debootstrap:debootstrap gpgv:gpgv cpio:cpio"
tests="setfattr:attr setfacl:acl mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs strace:strace skopeo:skopeo umoci:umoci
       qemu-system-x86_64:qemu-system-x86 setpriv:util-linux unshare:util-linux
       losetup:mount mkfs.ext4:e2fsprogs script:bsdutils pgrep:procps git:git fincore:util-linux-extra
       podman:podman buildah:buildah runc:runc newuidmap:uidmap conmon:conmon
       containerd:containerd unionfs-fuse:unionfs-fuse /usr/lib/python3/dist-packages/grpc:python3-grpcio"

missing_packages() {
    local pair
    for pair in "$@"; do
        [ -e "${pair%%:*}" ] || command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
    done | sort -u
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages "$@")
    [ ${#packages[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "missing ${packages[*]}: run as root, or apt-get install them"
    command -v apt-get >/dev/null || die "missing ${packages[*]}: no apt-get here, install them by other means"
    say "installing ${packages[*]}"
    local log; log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get failed (all of it: $log)"
    fi
    rm -f "$log"
}

# CRATE VERSION PROGRAM: built once into build/tools.
install_crate() {
    local stamp=$tools/$1-$2.installed log
    [ -e "$stamp" ] && return 0
    say "building $1 $2 (once, a minute or two)"
    mkdir -p "$tools"
    log=$(mktemp)
    if ! cargo install --locked --quiet --root "$tools" "$1@$2" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "cargo install $1@$2 failed (all of it: $log)"
    fi
    rm -f "$log"
    touch "$stamp"
}

command -v cargo >/dev/null || die "no cargo: install Rust 1.95 or later first"
# shellcheck disable=SC2086 # the lists are split on purpose
install_packages $demo
[ "${1:-}" = demo ] && exit 0
# shellcheck disable=SC2086
install_packages $tests
install_crate pjdfstest 0.2.2
install_crate fsx 0.3.2
PATH=$tools/bin:$PATH cargo nextest --version >/dev/null 2>&1 || install_crate cargo-nextest 0.9.143
