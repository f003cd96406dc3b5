#!/bin/sh
# Runs every test of the workspace. With cargo-nextest each test is a process of its own and all of
# them run side by side; plain cargo does as well.
set -eu
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --no-fail-fast --status-level slow --success-output final
    cargo test --workspace --locked --doc --quiet
else
    cargo test --workspace --locked --no-fail-fast
fi
