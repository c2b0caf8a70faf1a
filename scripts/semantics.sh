#!/bin/bash
# semantics.sh: every test that SEMANTICS.md names is there. In its tables' last column and in lines that begin with
# "Tests:", `module::name`, `name`, `module::*` and `module` (with … or * for the rest of a name) stand for tests.
set -euo pipefail
cd "$(dirname "$0")/.."

named=$(awk '
    /^\| rule \| test \|/ {table = 1; next}
    !/^\|/ {table = 0}
    table && !/^\|---/ {sub(/ \|$/, ""); sub(/.* \| /, ""); print}
    /^Tests: / {print}
' SEMANTICS.md | grep -o '`[^`]*`' | tr -d '`' | sed 's/^mounted //' | sort -u)

# Files of a module: tests/GROUP_module.rs, tests/module.rs, or a module of the program with tests of its own.
files_of() { find tests unionfs/src \( -name "*_$1.rs" -o -name "$1.rs" -o -path "*/$1/*.rs" -o -path "*/${1//_//}.rs" \) -type f; }

missing=0 count=0
while read -r name; do
    count=$((count + 1))
    modules=${name%::*} test=${name##*::}
    # What has no module is a test, or a module where there is no such test.
    [ "$modules" = "$name" ] && modules=
    if [ -n "$modules" ]; then files=$(files_of "${modules##*::}"); else files=$(find tests unionfs/src -name '*.rs'); fi
    pattern=$(sed 's/…/[a-z0-9_]*/g; s/\*/[a-z0-9_]*/g' <<<"$test")
    # shellcheck disable=SC2086 # a list of files
    [ -n "$files" ] && grep -qE "fn $pattern\(" $files && continue
    files=$(files_of "$test")
    # shellcheck disable=SC2086
    [ -n "$files" ] && grep -q '#\[test\]' $files && continue
    echo "SEMANTICS.md names a test that is not there: $name" >&2
    missing=1
done <<<"$named"
[ "$count" -gt 40 ] || { echo "semantics.sh: only $count names found: has the form of SEMANTICS.md changed?" >&2; exit 1; }
exit $missing
