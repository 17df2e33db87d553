#!/bin/sh
# Fuzzes one target for some seconds: fuzz/run.sh TARGET [SECONDS]
# Coverage-guided on a stable compiler: the same instrumentation cargo-fuzz asks for, without the sanitizers that need
# nightly. With cargo-fuzz installed, `cargo fuzz run TARGET` works too.
set -eu
target=$1
seconds=${2:-20}
cd "$(dirname "$0")"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# --target keeps the instrumentation out of build scripts.
cargo build --quiet --release --locked --target x86_64-unknown-linux-gnu --bin "$target"
mkdir -p "target/corpus/$target" artifacts
exec "target/x86_64-unknown-linux-gnu/release/$target" -max_total_time="$seconds" -max_len=8192 -timeout=5 \
    -rss_limit_mb=512 -print_final_stats=1 -verbosity=0 -artifact_prefix=artifacts/ "target/corpus/$target" "corpus/$target"
