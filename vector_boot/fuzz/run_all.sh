#!/bin/sh
# Fuzzes every target for some seconds, as many at a time as there are processors: fuzz/run_all.sh [SECONDS]
# A log of each is left in build/; one that finds something is printed, and its input is in fuzz/artifacts.
set -eu
seconds=${1:-15}
cd "$(dirname "$0")/../.."
mkdir -p build
for target in vector_boot/fuzz/fuzz_targets/*.rs; do basename "$target" .rs; done |
    xargs -P "$(nproc)" -I TARGET sh -c '
        log=build/fuzz-$1.log
        vector_boot/fuzz/run.sh "$1" "$2" >"$log" 2>&1 || { cat "$log"; exit 1; }
        echo "fuzz $1: $(sed -n "s/^stat::number_of_executed_units: *//p" "$log") inputs, no finding"
    ' run TARGET "$seconds"
