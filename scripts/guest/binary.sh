# SPDX-License-Identifier: MIT OR Apache-2.0
# To be sourced, in the checkout's folder, by what runs in a guest: $FERROFS, a release build if it is
# not given, and $work, a folder until the end; not under /run or /mnt, which the guest has of its own.
if [ -z "${FERROFS:-}" ]; then
    cargo build --release --locked -p ferrofs-cli
    FERROFS=${CARGO_TARGET_DIR:-target}/release/ferrofs
fi
FERROFS=$(realpath "$FERROFS")
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
