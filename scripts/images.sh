#!/bin/bash
# Makes two images of Debian's own packages, once, under build/images (or the directory given):
#   busybox.tar      a root filesystem: busybox-static and nothing else
#   debian-base.tar  a root filesystem: debootstrap's minbase with python3 and gcc
#   debian.tar       a docker-archive of three gzip layers: debian-base, then one with a whiteout, then one with an
#                    opaque directory; its name is debian:demo
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-build/images}" && cd "${1:-build/images}" && pwd)
scratch=$(mktemp -d "$out/making.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

say() { printf 'images: %s\n' "$*" >&2; }

# Tells every ten seconds how far the command is, by the last line it wrote to LOG.
progress() {
    local what=$1 log=$2 begin=$SECONDS pid; shift 2
    "$@" > "$log" 2>&1 & pid=$!
    while kill -0 $pid 2>/dev/null; do
        sleep 1
        if (( (SECONDS - begin) % 10 == 9 )); then say "$what: $((SECONDS - begin)) s: $(tail -n 1 "$log" | cut -c 1-70)"; sleep 1; fi
    done
    wait $pid || { tail -n 20 "$log" >&2; say "$what failed"; exit 1; }
}

# Archives a directory the same way each time.
archive() { tar --numeric-owner --sort=name -C "$1" -cf "$2" .; }

busybox_root() {
    local root=$scratch/busybox applet
    mkdir -p "$root"/{bin,etc,root,tmp,var}
    chmod 1777 "$root/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' > "$root/etc/group"
    archive "$root" "$scratch/busybox.tar"
    mv "$scratch/busybox.tar" "$out/busybox.tar"
}

debian_root() {
    local root=$scratch/debian suite mirror
    # The release and the mirror that this machine's own packages come from.
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' | awk -v suite="$suite" '$1 == suite {print $2; exit}')
    [ -n "$mirror" ] || { say "no apt source for $suite: run apt-get update"; exit 1; }
    progress "debootstrap" "$scratch/log" debootstrap --variant=minbase --include=python3,gcc,libc6-dev "$suite" "$root" "$mirror"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
    archive "$root" "$scratch/base.tar"
    rm -rf "$root"
    mv "$scratch/base.tar" "$out/debian-base.tar"
}

# A second layer that deletes a file and changes another; a third that replaces a directory.
debian_layers() {
    local two=$scratch/two three=$scratch/three
    mkdir -p "$two/etc" "$three/usr/share/demo" "$three/etc/apt"
    : > "$two/etc/.wh.issue.net"
    echo "the demo's second layer" > "$two/etc/motd"
    : > "$three/etc/apt/.wh..wh..opq"
    echo "everything that /etc/apt held is hidden" > "$three/etc/apt/README"
    printf '#include <stdio.h>\nint main(void) { puts("compiled in the container"); return 0; }\n' > "$three/usr/share/demo/hello.c"
    archive "$two" "$scratch/two.tar"
    archive "$three" "$scratch/three.tar"
}

# A docker-archive: layers, config, manifest (docker image spec v1.2).
docker_archive() {
    local dir=$scratch/archive layer name diffs=() files=() history=() created; created=$(date -u +%FT%TZ)
    mkdir -p "$dir"
    for layer in "$out/debian-base.tar" "$scratch/two.tar" "$scratch/three.tar"; do
        name=$(sha256sum "$layer" | cut -d ' ' -f 1)
        gzip -n -1 < "$layer" > "$dir/$name.tar.gz"
        diffs+=("\"sha256:$name\"") files+=("\"$name.tar.gz\"") history+=("{\"created\":\"$created\",\"created_by\":\"$(basename "$layer")\"}")
    done
    join() { local IFS=,; echo "$*"; }
    cat > "$dir/config.json" <<J
{"architecture":"amd64","os":"linux","created":"$created",
"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","DEMO=yes"],"Cmd":["/bin/bash"],"WorkingDir":"/root"},
"rootfs":{"type":"layers","diff_ids":[$(join "${diffs[@]}")]},"history":[$(join "${history[@]}")]}
J
    name=$(sha256sum "$dir/config.json" | cut -d ' ' -f 1)
    mv "$dir/config.json" "$dir/$name.json"
    echo "[{\"Config\":\"$name.json\",\"RepoTags\":[\"debian:demo\"],\"Layers\":[$(join "${files[@]}")]}]" > "$dir/manifest.json"
    tar -C "$dir" -cf "$scratch/debian.tar" manifest.json "$name.json" $(cd "$dir" && ls ./*.tar.gz | sed 's|^\./||')
    mv "$scratch/debian.tar" "$out/debian.tar"
}

if [ ! -e "$out/busybox.tar" ]; then say "busybox.tar"; busybox_root; fi
if [ ! -e "$out/debian-base.tar" ]; then say "debian-base.tar (debootstrap, a minute or two)"; debian_root; fi
if [ ! -e "$out/debian.tar" ]; then say "debian.tar"; debian_layers; docker_archive; fi
