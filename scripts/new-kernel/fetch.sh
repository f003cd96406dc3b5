#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# The newest kernel of a suite of Debian, as Debian built it, unpacked and not installed: DIR/bzImage,
# the modules that a guest needs in DIR/modules, in the order to load them, and its name in DIR/release.
#
#     fetch.sh DIR [sid|experimental|...]
#
# 130 MB of packages from the mirror of this machine's own apt. Does nothing if it is there already.
set -euo pipefail
mkdir -p "${1:?usage: fetch.sh DIR [SUITE]}"
cd "$1"
suite=${2:-sid} dir=$PWD
[ -f release ] && exit 0
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    awk '!found && ($1 == "URIs:" || $1 == "deb") { print $2; found = 1 }')
mkdir -p lists/partial
# The keys of a later Debian are not on this machine. What comes runs in emulation only, which can
# change no file of ours.
echo "deb [trusted=yes] $mirror $suite main" >suite.list
options=(-o Dir::Etc::sourcelist="$dir/suite.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$dir/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update
needs() { apt-cache "${options[@]}" depends "$1" | sed -n "s/^[ |]*Depends: \($2\)$/\1/p"; }
image=$(needs linux-image-amd64 'linux-image-[0-9].*')
[ -n "$image" ] || { echo "$suite has no kernel" >&2; exit 1; }
# Since 7.x the package is empty and depends on those with the files.
# shellcheck disable=SC2046 # a list of words
apt-get "${options[@]}" -qq download "$image" $(needs "$image" 'linux-\(binary\|modules\|base\)-[0-9].*')
for package in linux-*.deb; do dpkg-deb -x "$package" unpacked; done
# One by its name or that of its file; what depends on it needs it loaded first.
declare -A met=()
from=$(find unpacked -type d -path '*/modules/*/kernel' -print -quit)
mkdir -p modules
load() {
    local name=${1//-/_} file needed
    [ -z "${met[$name]:-}" ] || return 0
    met[$name]=1
    file=$(find "$from" -name "${name//_/[-_]}.ko*" -print -quit)
    [ -n "$file" ] || return 0 # it is in the kernel itself
    xz -dc "$file" >"modules/$name.ko"
    needed=$(tr '\0' '\n' <"modules/$name.ko" | grep -a -m 1 '^depends=' || true)
    for needed in $(tr , ' ' <<<"${needed#depends=}"); do load "$needed"; done
    mv "modules/$name.ko" "modules/$(printf %02d $loaded)-$name.ko"
    loaded=$((loaded + 1))
}
loaded=10
for module in virtio_blk ext4 9pnet_virtio 9p loop erofs overlay; do load $module; done
kernel=$(find unpacked -name 'vmlinuz*' -print -quit)
config=$(find unpacked -name 'config*' -type f -print -quit)
for option in EROFS_FS_PAGE_CACHE_SHARE FUSE_PASSTHROUGH; do
    grep -qx "CONFIG_$option=y" "$config" || { echo "the kernel has no $option" >&2; exit 1; }
done
cp "$kernel" bzImage
basename "$(dirname "$from")" >release
rm -rf unpacked lists suite.list linux-*.deb
