#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds every fuzz target and runs each for some seconds on its corpus; fails at the first crash,
# hang or leak of memory, and leaves the input in fuzz/artifacts.
#
#     fuzz/smoke.sh [SECONDS [TARGET...]]
#
# Needs no nightly compiler and no cargo-fuzz: coverage is an LLVM pass that the stable compiler
# can be told to run, and libFuzzer is built from its crate. New inputs that reach new code are kept
# in fuzz/target/corpus, not in the repository; FUZZ_CORPUS names another folder for them.
set -eu
cd "$(dirname "$0")"
seconds=${1:-10}
[ $# -gt 0 ] && shift
targets=${*:-superblock dirents xattrs index_packs read_image decode_lz4 decode_lzma decode_deflate decode_zstd digest_table table_copy cachefiles domain_message share_pool}

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS
build=${CARGO_TARGET_DIR:-target}
# An explicit target keeps the flags from build scripts and macros.
bins=
for target in $targets; do bins="$bins --bin $target"; done
# shellcheck disable=SC2086 # a list of words
cargo build --release --locked --quiet --target "$host" $bins

found=${FUZZ_CORPUS:-target/corpus}
status=0
for target in $targets; do
    mkdir -p "$found/$target" "artifacts/$target"
    log=artifacts/$target.log
    # 25 seconds for one input is a hang; 1 GiB is memory that no image may make us take.
    if "$build/$host/release/$target" "$found/$target" "corpus/$target" \
        -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -timeout=25 \
        -rss_limit_mb=1024 -max_len=131072 -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        covered=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1)
        echo "fuzz $target: $runs runs,$covered"
    else
        status=1
        echo "fuzz $target: FAILED, see fuzz/$log" >&2
        tail -n 40 "$log" >&2
    fi
done
exit $status
