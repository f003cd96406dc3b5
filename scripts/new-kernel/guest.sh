#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs in the guest: ferrofs on its kernel. guest.sh FERROFS WORK [PAIRS NAMES]
#
# WORK/images and WORK/tests are what test.sh made. With PAIRS, a pair or more, as bench/sharing/run.py
# knows them, is measured too, and nothing else is done.
set -u
ferrofs=$1 work=$2 pairs=${3:-} names=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin
export PYTHONDONTWRITEBYTECODE=1 TMPDIR=/run/cache/tmp
mkdir -p $TMPDIR
ulimit -n 65536
ip link set lo up
echo "figure: $(uname -r)"
if [ -n "$pairs" ]; then
    mkdir /run/cache/out
    # shellcheck disable=SC2086 # a list of words
    python3 "$here/../../bench/sharing/run.py" --ferrofs "$ferrofs" --folder "$pairs" --out /run/cache/out \
        --mixes same --ways kernel,native --check ${names//+/ }
    exit $?
fi
failed=0
python3 "$here/native.py" "$ferrofs" "$work/images" || failed=1
# Tests of this repository that mount: what another kernel does otherwise shows in them.
while read -r program filters; do
    # shellcheck disable=SC2086 # a list of words
    (cd "$here/../.." && timeout 1200 "$program" --test-threads 1 --nocapture $filters) </dev/null 2>&1 || failed=1
done <"$work/tests"
dmesg --level emerg,alert,crit,err,warn 2>/dev/null | grep -i -E 'erofs|fuse|fanotify|BUG|WARN|oops' |
    grep -v EXPERIMENTAL | tail -n 20
exit $failed
