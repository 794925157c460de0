#!/bin/sh
# Runs fuzz targets with libFuzzer: ./run.sh [seconds for each] [target…]. Needs a C++ compiler, and no nightly toolchain:
# coverage comes from LLVM's own pass. Address checks are left out, as the crate forbids unsafe code.
set -eu
cd "$(dirname "$0")"
seconds=${1:-30}
[ $# -eq 0 ] || shift
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
export RUSTFLAGS
# The host is named so that the flags reach the targets only and no build script.
cargo build --locked --release --target "$host" --bins --target-dir target
for target in ${*:-$(basename -s .rs fuzz_targets/*.rs)}; do
    # What is found on the way stays outside the repository's corpus.
    mkdir -p "target/found/$target"
    "target/$host/release/$target" -max_total_time="$seconds" -max_len=24576 -timeout=5 -rss_limit_mb=1024 \
        -artifact_prefix="target/found/$target-" "target/found/$target" "corpus/$target"
done
