#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds a small kernel with cachefiles' on-demand mode, from Debian's packages: DIR/bzImage.
#
#     build.sh DIR [6.1|6.12]
#
# Half an hour on two cores and 2 GB of disk. Does nothing if it is there already. Debian 12, root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: build.sh DIR [6.1|6.12]}"
cd "$1"
version=${2:-6.1} dir=$PWD
[ -f bzImage ] && exit 0
apt-get install -y -qq --no-install-recommends \
    flex bison bc libelf-dev libssl-dev xz-utils make gcc >/dev/null
if [ ! -d "linux-source-$version" ]; then
    options=()
    if [ "$version" = 6.12 ]; then
        mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
            awk '!found && ($1 == "URIs:" || $1 == "deb") { print $2; found = 1 }')
        mkdir -p lists/partial
        echo "deb $mirror bookworm-backports main" >backports.list
        options=(-o Dir::Etc::sourcelist="$dir/backports.list" -o Dir::Etc::sourceparts=-
            -o Dir::State::lists="$dir/lists")
        apt-get "${options[@]}" -qq update
    fi
    apt-get "${options[@]}" -qq download "linux-source-$version"
    dpkg-deb -x "linux-source-${version}"_*.deb unpacked
    tar -xf "unpacked/usr/src/linux-source-$version.tar.xz"
    rm -rf unpacked "linux-source-${version}"_*.deb
fi
cd "linux-source-$version"
make -s tinyconfig
scripts/kconfig/merge_config.sh -m .config "$here/kernel-$version.config" >/dev/null
make -s olddefconfig
for option in CACHEFILES_ONDEMAND EROFS_FS_ONDEMAND; do
    grep -qx "CONFIG_$option=y" .config || { echo "the kernel has no $option" >&2; exit 1; }
done
nice make -s -j"$(nproc)" bzImage
cp arch/x86/boot/bzImage "$dir/"
