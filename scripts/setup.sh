#!/bin/sh
# Installs what `make demo` and `make test` need: packages by apt as root on Debian; otherwise says
# in one line what is missing and how to get it. Changes nothing that is there already.
set -eu

missing=
need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need fusermount3 fuse3
need mkfs.erofs erofs-utils
need setfattr attr
need setpriv util-linux
need git git
need zstd zstd

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086 # a list of words
        { apt-get -qq update && apt-get -qq -y install --no-install-recommends $missing; } >/dev/null
    else
        echo "setup: please install, as root: apt-get install$missing" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust is missing; get 1.88 or later from https://rustup.rs" >&2
    exit 1
fi

# Debian's own rules give /dev/fuse to everybody; machines without udev leave it to root, and then
# mounts without privileges cannot be tested.
if [ "$(id -u)" = 0 ] && [ -c /dev/fuse ] && [ "${CI:-}" = true ]; then
    chmod 0666 /dev/fuse
fi
