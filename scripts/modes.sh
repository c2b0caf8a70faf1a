#!/bin/bash
# modes.sh [FILTER]: the mounted tests once more in each mode that is not the default: data passed through,
# lower files too, FUSE over io_uring (switched on for the run), and both; FILTER, in nextest's words, narrows them down. A host that
# cannot offer a mode fails.
set -euo pipefail
cd "$(dirname "$0")/.."
switch=/sys/module/fuse/parameters/enable_uring
[ -e $switch ] || { echo "modes.sh: no $switch: this kernel has no FUSE over io_uring (6.14 has)" >&2; exit 1; }
was=$(cat $switch)
trap 'echo "$was" > $switch' EXIT
# Left out are what has no mode, what takes long and is the same in each, and fsx, which has a test for each.
tests="not test(/^cli::/) & not test(/faults::/) & not test(/hundred_thousand|five_hundred/) & not test(/^suites::fsx/)${1:+ & ($1)}"
failed=0
for mode in io=passthrough io=passthrough-all transport=uring io=passthrough,transport=uring; do
    case $mode in
        *uring*) echo Y > $switch || { echo "modes.sh: $switch cannot be set" >&2; exit 1; } ;;
    esac
    echo "modes.sh: the mounted tests with -o $mode"
    UNIONFS_TEST_OPTIONS=$mode cargo nextest run -p unionfs --test mounted --locked --cargo-profile ci -E "$tests" || failed=1
done
exit $failed
