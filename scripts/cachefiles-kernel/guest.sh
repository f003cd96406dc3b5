#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in the guest: ferrofs cached against its kernel. guest.sh FERROFS BLOBS TREE 6.1|6.12 FROM
set -u
ferrofs=$1 blobs=$2 tree=$3 version=$4 from=$5
failed=0
check() { if [ "$1" = 0 ]; then echo "ok: $2"; else echo "FAILED: $2"; failed=1; fi; }
seconds() { cut -d' ' -f1 /proc/uptime; }
mkdir -p /run/cache/fs /mnt/a /mnt/b
daemon=
begin() {
    "$ferrofs" cached --dir /run/cache/fs --blobs "$blobs" --from "$from" --cache-dir /run/store \
        --patience 10 --foreground "$@" 2>>/run/log &
    daemon=$!
    sleep 2
}
finish() { kill "$daemon"; wait "$daemon"; }
same() { diff -r --no-dereference "$1" "$tree" >/run/diff 2>&1 || { head -n 5 /run/diff; return 1; }; }
mnt() { mount -t erofs -o "$1" none "$2"; }

begin --supervise
at=$(seconds)
mnt fsid=plain /mnt/a && same /mnt/a
check $? "an image by fsid, cold"
echo "figure: cold mount and comparison from $at to $(seconds) s"
umount /mnt/a
at=$(seconds)
mnt fsid=plain /mnt/a && same /mnt/a
check $? "the same image, warm"
echo "figure: warm mount and comparison from $at to $(seconds) s"
umount /mnt/a

mnt domain_id=d,fsid=meta1,device=shared /mnt/a && same /mnt/a
check $? "metadata with a blob of its domain"
mnt domain_id=d,fsid=meta2,device=shared /mnt/b && same /mnt/b
check $? "another image with the same blob"
umount /mnt/a /mnt/b
if [ "$version" != 6.1 ]; then
    mnt fsid=lz4 /mnt/a && same /mnt/a
    check $? "an lz4 image"
    umount /mnt/a
fi

# Of a source that is cut off: errors, never other bytes.
mnt domain_id=e,fsid=meta3,device=short /mnt/a
bad=0 good=0 lost=0
(cd "$tree" && find . -type f) >/run/files
while IFS= read -r file; do
    if cat "/mnt/a/$file" >/run/got 2>/dev/null; then
        cmp -s /run/got "$tree/$file" && good=$((good + 1)) || bad=1
    else
        lost=$((lost + 1))
    fi
done </run/files
[ $bad = 0 ] && [ $good -gt 0 ] && [ $lost -gt 0 ]
check $? "a source that is cut off gives no wrong byte ($good files whole, $lost errors)"
umount /mnt/a 2>/dev/null
mnt fsid=nothing /mnt/a 2>/dev/null && check 1 "a blob that is not there" || check 0 "a blob that is not there"

# Killed again and again while somebody reads.
mnt fsid=plain2 /mnt/a
same /mnt/a &
reader=$!
kills=0
while kill -0 $reader 2>/dev/null && [ $kills -lt 8 ]; do
    worker=$(pgrep -P "$daemon" | head -n 1)
    [ -n "$worker" ] && kill -9 "$worker" && kills=$((kills + 1))
    sleep 0.4
done
wait $reader
check $? "a reader outlives its daemon ($kills kills)"
umount /mnt/a

# By URL, verified, and mounted by ferrofs itself.
"$ferrofs" mount -q -o fsid=flipped /mnt/a
bad=0 good=0 lost=0
while IFS= read -r file; do
    if cat "/mnt/a/$file" >/run/got 2>/dev/null; then
        cmp -s /run/got "$tree/$file" && good=$((good + 1)) || bad=1
    else
        lost=$((lost + 1))
    fi
done </run/files
[ $bad = 0 ] && [ $good -gt 0 ] && [ $lost -gt 0 ]
check $? "a byte that is another than was pinned is an error ($good files whole, $lost errors)"
umount /mnt/a
"$ferrofs" mount -o fsid=whole /mnt/a 2>/run/said && grep -q cachefiles /run/said && same /mnt/a
check $? "an image by URL, verified, mounted by ferrofs"
umount /mnt/a
"$ferrofs" mount -o domain_id=f,fsid=sharer,device=shared none /mnt/a -q && same /mnt/a
check $? "an image by URL with a blob beside it, in a domain"
umount /mnt/a
for name in unpinned nothing ../whole; do
    "$ferrofs" mount -q -o fsid=$name /mnt/a 2>/run/said && check 1 "refuses $name" ||
        { grep -q 'ferrofs cached' /run/said; check $? "refuses $name: $(head -n 1 /run/said)"; }
done

# The last holder of the device is gone.
mnt fsid=plain3 /mnt/a
worker=$(pgrep -P "$daemon" | head -n 1)
kill -9 "$daemon" "$worker"
wait "$daemon" 2>/dev/null
sleep 1
timeout 60 cat /mnt/a/large >/run/got 2>/dev/null
[ $? = 1 ]
check $? "without a daemon reads fail at once"
umount /mnt/a
tail -n 15 /run/log
exit $failed
