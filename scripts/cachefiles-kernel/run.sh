#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Boots DIR/bzImage in software emulation and runs a script in it, among this machine's files, which
# it can read but not change. Ends with the script's status.
#
#     run.sh DIR SCRIPT [ARGS WITH COMMAS]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=$(cd "${1:?usage: run.sh DIR SCRIPT [ARGS]}" && pwd)/bzImage
script=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,dev,proc,sys,host,cache}
cp "$(command -v busybox)" "$work/root/bin/busybox"
install -m 755 "$here/init" "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip) >"$work/initramfs"
truncate -s 512M "$work/cache.ext4"
mkfs.ext4 -q -F "$work/cache.ext4"
timeout -k 5 "${GUEST_SECONDS:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 \
    -m 1024 -nodefaults -no-reboot -display none -serial stdio -kernel "$kernel" \
    -initrd "$work/initramfs" -drive file="$work/cache.ext4",if=virtio,format=raw \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -append "console=ttyS0 panic=-1 quiet script=$script args=${3:-}" </dev/null | tee "$work/log"
grep -q '^GUEST-EXIT 0' "$work/log"
