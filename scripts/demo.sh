#!/bin/sh
# The main job on real input: a real tree becomes images; each is checked, mounted by the kernel and
# by FUSE, and compared with the tree by hash. TREE=DIR chooses the tree.
set -eu

cargo build --release --locked -p ferrofs-cli
ferrofs=${CARGO_TARGET_DIR:-target}/release/ferrofs

# Some hundred megabytes of real files that every Debian machine has.
pick_tree() {
    for tree in /usr/share /usr/lib/gcc /usr/lib /usr; do
        [ -d "$tree" ] || continue
        mb=$(du -sm "$tree" 2>/dev/null | cut -f1)
        if [ "$mb" -ge 100 ] && [ "$mb" -le 2000 ]; then
            echo "$tree"
            return
        fi
    done
    echo /usr
}
tree=${TREE:-$(pick_tree)}

work=$(mktemp -d "${TMPDIR:-/tmp}/ferrofs-demo.XXXXXX")
mount_point=$work/mnt
mkdir "$mount_point"
cleanup() {
    "$ferrofs" umount "$mount_point" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now() { date +%s.%N; }
since() { # start
    awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'
}
# Hashes of all files and targets of all links, in one order whatever the file system's.
digest() { # directory
    (cd "$1" && {
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
        find . -type l -printf '%p %l\n' | LC_ALL=C sort
        find . ! -type d -printf '%p %m %U %G %T@\n' | LC_ALL=C sort
    } | sha256sum | cut -c1-64)
}

echo "demo: hashing $tree"
want=$(digest "$tree")
bytes=$(find "$tree" -type f -printf '%i %s\n' | sort -u | awk '{ s += $2 } END { print s }')
files=$(find "$tree" | wc -l)

try_mount() { # label, mount options...
    label=$1
    shift
    if ! said=$("$ferrofs" mount "$@" "$image" "$mount_point" 2>&1); then
        printf '%-8s' "-"
        why="$why$label: $said
"
        return
    fi
    start=$(now)
    if [ "$(digest "$mount_point")" = "$want" ]; then
        printf '%-8s' "$(since "$start")"
    else
        printf '%-8s' DIFFERS
        failed=1
    fi
    "$ferrofs" umount "$mount_point"
}

failed=0
why=
printf '\n%s: %s entries, %s MB of files\n\n' "$tree" "$files" "$((bytes / 1000000))"
printf '%-14s %-9s %-7s %-9s %-9s %-9s %-9s\n' codec image ratio build check kernel FUSE
for row in none:4K lz4:4K lz4hc,9:64K zstd,3:64K; do
    codec=${row%:*}
    pcluster=${row#*:}
    image=$work/image.erofs
    label="$codec $pcluster"
    set -- --compress "$codec" --pcluster-size "$pcluster"
    if [ "$codec" = none ]; then
        label=uncompressed
        set --
    fi
    start=$(now)
    "$ferrofs" build "$tree" -o "$image" "$@" >/dev/null
    build=$(since "$start")
    size=$(stat -c %s "$image")
    start=$(now)
    "$ferrofs" check "$image" >/dev/null
    check=$(since "$start")
    ratio=$(awk -v a="$size" -v b="$bytes" 'BEGIN { printf "%.3f", a / b }')
    printf '%-14s %-9s %-7s %-9s %-9s ' "$label" "$((size / 1000000)) MB" "$ratio" "$build" "$check"
    try_mount kernel --kernel
    printf '  '
    try_mount FUSE --fuse
    printf '\n'
    rm -f "$image"
done
echo
echo "kernel and FUSE: time to mount nothing but to read and hash every file through that mount;"
echo "every hash, link target, mode, owner and time was compared with $tree."
[ -z "$why" ] || printf 'not mounted: %s' "$why"
if [ "$failed" -ne 0 ]; then
    echo "demo: a mount differed from its source" >&2
    exit 1
fi
