#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# `ferrofs cached` against real kernels, 6.1 and 6.12, emulated by qemu. See docs/cachefiles.md.
#
# KERNEL_DIR=DIR (default target/cachefiles-kernel) holds 6.1/bzImage and 6.12/bzImage, or they are
# built there; VERSIONS chooses; FERROFS names a binary instead of a release build.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/scripts/cachefiles-kernel
dir=${KERNEL_DIR:-$PWD/target/cachefiles-kernel}
# shellcheck source=scripts/guest/binary.sh
. scripts/guest/binary.sh
tree=$work/tree blobs=$work/blobs
mkdir -p "$tree/folder" "$blobs"
head -c 6000000 /dev/urandom >"$tree/large"
seq 1 200000 >"$tree/folder/numbers"
for i in $(seq 1 60); do head -c $((i * 500)) /dev/urandom >"$tree/folder/f$i"; done
ln -s large "$tree/link"
"$FERROFS" build "$tree" -o "$blobs/plain"
cp "$blobs/plain" "$blobs/plain2"
cp "$blobs/plain" "$blobs/plain3"
"$FERROFS" build "$tree" -o "$blobs/lz4" --compress lz4
"$FERROFS" build "$tree" -o "$blobs/meta1" --chunk-size 64K --blob "$blobs/shared"
cp "$blobs/meta1" "$blobs/meta2"
cp "$blobs/meta1" "$blobs/meta3"
head -c $((($(stat -c %s "$blobs/shared") - 300000) / 4096 * 4096)) "$blobs/shared" >"$blobs/short"
# By URL, with a pin; in the second one, another image of the tree, a byte is not what the table says.
mkdir "$work/urls"
cp "$blobs/plain" "$work/urls/whole"
"$FERROFS" build -q "$tree" -o "$work/urls/flipped"
pin() { "$FERROFS" digests "$1" | grep -o 'blake3:[0-9a-f]*' | head -n 1; }
whole=$(pin "$work/urls/whole") flipped=$(pin "$work/urls/flipped")
at=$(($(stat -c %s "$work/urls/flipped") / 2))
byte=$(od -An -tu1 -j $at -N 1 "$work/urls/flipped")
printf "\\x$(printf %x $((byte ^ 1)))" | dd of="$work/urls/flipped" bs=1 seek=$at conv=notrunc status=none
cat >"$work/urls/from" <<END
whole=file://$work/urls/whole,pin=$whole
flipped=file://$work/urls/flipped,pin=$flipped
unpinned=file://$work/urls/whole
sharer=file://$blobs/meta1,domain=f,insecure
END
for version in ${VERSIONS:-6.1 6.12}; do
    "$here/build.sh" "$dir/$version" "$version"
    echo "== Linux $version"
    scripts/guest/run.sh "$dir/$version" "$here/guest.sh" "$FERROFS,$blobs,$tree,$version,$work/urls/from"
done
