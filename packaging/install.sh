#!/bin/bash
# Lays programs, links, manual pages and completions out as they are installed.
#   packaging/install.sh PROGRAMS DOCS PREFIX [DESTDIR]
# PROGRAMS is the directory of the built programs, DOCS what `cargo run --example docs` wrote.
set -euo pipefail
programs=$1 docs=$2 prefix=$3 dest=${4:-}
at=$dest$prefix

install -d "$at/bin" "$at/share/man/man1" "$at/share/man/man8"
install -m 755 "$programs/unionfs" "$programs/uctr" "$at/bin/"
# Called by these names the program takes the command lines of those programs.
ln -sf unionfs "$at/bin/fuse-overlayfs"
ln -sf unionfs "$at/bin/unionfs-fuse"

# mount(8) looks for its helpers in /sbin and nowhere else.
case $prefix in
/usr) helpers=$dest/usr/sbin program=../bin/unionfs ;;
/usr/local) helpers=$dest/usr/sbin program=../local/bin/unionfs ;;
*) helpers=$at/sbin program=../bin/unionfs ;;
esac
install -d "$helpers"
for name in mount.unionfs mount.fuse.unionfs; do
    helper=$helpers/$name
    if [ -e "$helper" ] && [ ! -L "$helper" ]; then
        echo "install: $helper is another program's (Debian's unionfs-fuse?) and stays: mount -t unionfs means that one" >&2
    else
        ln -sf "$program" "$helper"
    fi
done

install -m 644 "$docs"/man/*.1 "$at/share/man/man1/"
install -m 644 "$docs"/man/*.8 "$at/share/man/man8/"
ln -sf mount.unionfs.8 "$at/share/man/man8/mount.fuse.unionfs.8"
ln -sf unionfs-mount.1 "$at/share/man/man1/fuse-overlayfs.1"
ln -sf unionfs-mount.1 "$at/share/man/man1/unionfs-fuse.1"
for program in unionfs uctr; do
    install -D -m 644 "$docs/completions/$program.bash" "$at/share/bash-completion/completions/$program"
    install -D -m 644 "$docs/completions/_$program" "$at/share/zsh/vendor-completions/_$program"
    install -D -m 644 "$docs/completions/$program.fish" "$at/share/fish/vendor_completions.d/$program.fish"
done
