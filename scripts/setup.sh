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
need skopeo skopeo
need umoci umoci
need setfattr attr
need setpriv util-linux
need git git
need zstd zstd
# Looks at the pages that `--html` writes.
need chromium chromium
# Origins of lazy mounts. nginx is in /usr/sbin, which is not in everybody's PATH.
[ -x /usr/sbin/nginx ] || need nginx nginx-light
need docker-registry docker-registry
# Certificates for the servers of tests.
need openssl openssl
# moto, which speaks S3, has no Debian package: it goes to a Python environment of its own.
moto=/opt/ferrofs-moto
want_moto=
if [ "$(id -u)" = 0 ] && [ ! -x $moto/bin/moto_server ]; then
    want_moto=yes
    # The interpreter of Debian: others on the machine may be another user's, or gone tomorrow.
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
fi

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

if [ -n "$want_moto" ] && [ -x /usr/bin/python3 ]; then
    echo "setup: installing moto in $moto"
    /usr/bin/python3 -m venv $moto
    # moto's extra "server" brings the dependencies of every service; S3 needs these alone.
    if ! $moto/bin/pip -q install --disable-pip-version-check 'moto[s3]==5.*' flask flask-cors; then
        echo "setup: moto cannot be installed; tests against S3 will not run" >&2
        rm -rf $moto
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
