#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Boots DIR/bzImage in software emulation, with the modules of DIR/modules if there are any, and runs a
# script in it, among this machine's files, which it can read but not change. Its own are /run, /mnt
# and, on ext4, /run/cache. Ends with the script's status.
#
#     run.sh DIR SCRIPT [ARGS WITH COMMAS]
#
# GUEST_SECONDS (default 600), GUEST_MB of memory (1024), GUEST_DISK (512M).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for tool in qemu-system-x86_64 busybox cpio mkfs.ext4; do
    command -v $tool >/dev/null || {
        echo "needs qemu-system-x86, busybox-static, cpio, e2fsprogs" >&2
        exit 1
    }
done
dir=$(cd "${1:?usage: run.sh DIR SCRIPT [ARGS]}" && pwd)
script=$(realpath "$2")
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,dev,proc,sys,host,cache}
cp "$(command -v busybox)" "$work/root/bin/busybox"
[ ! -d "$dir/modules" ] || cp -r "$dir/modules" "$work/root/modules"
install -m 755 "$here/init" "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"
truncate -s "${GUEST_DISK:-512M}" "$work/cache.ext4"
mkfs.ext4 -q -F "$work/cache.ext4"
timeout -k 5 "${GUEST_SECONDS:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 \
    -m "${GUEST_MB:-1024}" -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$dir/bzImage" -initrd "$work/initramfs" \
    -drive file="$work/cache.ext4",if=virtio,format=raw,cache=unsafe \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -append "console=ttyS0 panic=-1 quiet no_timer_check script=$script args=${3:-}" </dev/null | tee "$work/log"
grep -q '^GUEST-EXIT 0' "$work/log"
