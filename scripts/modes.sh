#!/bin/bash
# modes.sh [NEXTEST ARGUMENTS]: the mounted tests once more in each mode that is not the default: both ways to move
# data, and FUSE over io_uring where the kernel has it (switched on for the run, if that is allowed).
set -euo pipefail
cd "$(dirname "$0")/.."
switch=/sys/module/fuse/parameters/enable_uring
modes=(io=stateless io=passthrough)
if [ -e $switch ]; then
    was=$(cat $switch)
    trap 'echo "$was" > $switch' EXIT
    if echo Y > $switch 2>/dev/null; then modes+=(transport=uring); else echo "modes.sh: io_uring cannot be switched on here: not tested" >&2; fi
else
    echo "modes.sh: this kernel has no FUSE over io_uring: not tested" >&2
fi
failed=0
for mode in "${modes[@]}"; do
    echo "modes.sh: the mounted tests with -o $mode"
    UNIONFS_TEST_OPTIONS=$mode cargo nextest run -p unionfs --test mounted --locked --cargo-profile ci "$@" || failed=1
done
exit $failed
