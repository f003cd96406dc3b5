#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ferrofs on the newest kernel that Debian has, emulated by qemu: sharing by the kernel itself, images
# of every kind, and this repository's tests that mount. Root, ten minutes and more.
#
# SUITES (default sid; experimental has release candidates) chooses; KERNEL_DIR=DIR (default
# target/new-kernel) keeps the kernels; FERROFS names a binary instead of a release build; MKFS names
# a mkfs.erofs of erofs-utils 1.9 or later, whose digests are tried, too. PAIRS=DIR NAMES='redis'
# measures pairs of bench/sharing there, of images with inode digests, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/scripts/new-kernel
dir=${KERNEL_DIR:-$PWD/target/new-kernel}
# shellcheck source=scripts/guest/binary.sh
. scripts/guest/binary.sh
images=$work/images
mkdir -p "$images/a/sub"

trees() {
    seq 1 200000 >"$images/a/sub/numbers"
    seq 7 3 90000 >"$images/a/others"
    head -c 3000000 /dev/urandom >"$images/a/noise"
    head -c 5000 /dev/urandom >"$images/a/small"
    echo hello >"$images/a/tiny"
    : >"$images/a/empty"
    local i
    for i in $(seq 1 40); do head -c $((i * 700)) /dev/urandom >"$images/a/sub/f$i"; done
    ln -s noise "$images/a/link"
    ln "$images/a/small" "$images/a/again"
    cp -a "$images/a" "$images/b"
    seq 2 60000 >"$images/b/others"
    head -c 300000 /dev/urandom >"$images/b/new"
    rm "$images/b/sub/f3"
    touch -d 2020-01-01 "$images/b/noise"
    chmod 600 "$images/b/sub/f9"
}

build() { # NAME OPTIONS
    local side name=$1
    shift
    for side in a b; do "$FERROFS" build -q "$images/$side" -o "$images/$side.$name" "$@"; done
}

theirs() { # NAME OPTIONS
    local side name=$1
    shift
    for side in a b; do
        "$MKFS" --quiet --xattr-inode-digest "$@" "$images/$side.$name" "$images/$side" >/dev/null
    done
}

shared() {
    trees
    build plain --inode-digest
    build lz4 --inode-digest -z lz4
    build zstd --inode-digest -z zstd -C 64K
    build lzma --inode-digest -z lzma -C 64K
    build deflate --inode-digest -z deflate --legacy-indexes
    build chunks --inode-digest --chunk-size 64K
    build undigested -z lz4
    MKFS=${MKFS:-mkfs.erofs}
    if "$MKFS" --help 2>&1 | grep -q xattr-inode-digest; then
        theirs mkfs-plain
        theirs mkfs-lz4 -zlz4hc
        theirs mkfs-zstd -zzstd -C65536
        theirs mkfs-dedupe -zzstd -C65536 -Efragments,dedupe
    else
        echo "skipped: images of another writer: $MKFS knows no digests (erofs-utils 1.9)"
    fi
    # The same name and size and, it says, the same content.
    mkdir "$work/honest" "$work/liar"
    head -c 100000 /dev/zero | tr '\0' a >"$work/honest/file"
    head -c 100000 /dev/zero | tr '\0' b >"$work/liar/file"
    "$FERROFS" build -q "$work/honest" -o "$images/truth" --inode-digest
    "$FERROFS" build -q "$work/liar" -o "$images/lie" --inode-digest --no-checksum
    python3 -B - "$images/lie" "$work" <<'END'
import hashlib, sys
image, work = sys.argv[1:]
digest = lambda name: hashlib.sha256(open(f"{work}/{name}/file", "rb").read()).digest()
data = open(image, "rb").read()
assert data.count(digest("liar")) == 1
open(image, "wb").write(data.replace(digest("liar"), digest("honest")))
END
}

# What cargo built for tests, and which of them: a line for each program.
programs() {
    local out=$work/cargo name filters
    cargo test --locked --no-run -p ferrofs-tests -p ferrofs-cli --test mount --test golden \
        --test holes --test cli 2>&1 | tee "$out" >&2
    # Unpacks the golden images, which the guest can read but not make.
    "$(sed -n 's|.*tests/golden.rs (\(.*\))|\1|p' "$out")" >&2
    while read -r name filters; do
        sed -n "s|.*tests/$name[/.a-z]*rs (\(.*\))|\1 $filters|p" "$out"
    done <<END
mount by_the_kernel the_choice devices_and_offsets holes_can_be_found
holes
cli mount:: share:: survive::what_is_complete lazy::the_kernel_asks
END
}

if [ -z "${PAIRS:-}" ]; then
    shared
    programs | sed "s|^\([^/]\)|$PWD/\1|" >"$work/tests"
fi
for suite in ${SUITES:-sid}; do
    "$here/fetch.sh" "$dir/$suite" "$suite"
    echo "== Linux $(cat "$dir/$suite/release")"
    GUEST_SECONDS=${GUEST_SECONDS:-3600} GUEST_MB=3072 GUEST_DISK=4G scripts/guest/run.sh "$dir/$suite" \
        "$here/guest.sh" "$FERROFS,$work${PAIRS:+,$(realpath "$PAIRS"),${NAMES// /+}}"
done
