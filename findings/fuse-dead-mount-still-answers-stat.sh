#!/bin/bash
# Program:  Linux (seen with 6.18), FUSE, with a file system whose names and attributes may be kept: squashfuse
#           0.1.105-1 (Debian 12), an image of mksquashfs 1:4.5.1-1.
# Expected: when the daemon of a mount was killed (kill -9), everything below the mount fails with ENOTCONN
#           ("Transport endpoint is not connected"), so `stat`, `test -e` or mountpoint(1) tell a dead mount.
# Seen:     names that were looked at before go on answering for as long as their attributes are valid, also
#           to processes that were never there before: stat(2) succeeds, `test -e`, `mountpoint -q`, `ls -l`
#           and `find` see nothing wrong. Only requests that have to ask the daemon fail: open, readdir,
#           statfs, and statx(2) with the time of birth, which stat(1) asks for.
# Follows:  a health check of a mounted mirror, or a daemon that cleans its own stale mount up at its start,
#           must not use stat(2). statfs(2) (`stat -f`) is never cached and tells at once.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried (it needs root and /dev/fuse).
set -euo pipefail

tmp=$(mktemp -d)
pid=
cleanup() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    wait
    rm -rf "$tmp"
}
trap cleanup EXIT
chmod 755 "$tmp"

if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
    echo "needs root and /dev/fuse"
    exit 2
fi
mkdir -p "$tmp/debs/partial" "$tmp/unpacked" "$tmp/mnt" "$tmp/tree/dir"
echo content >"$tmp/tree/dir/file"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" \
    install squashfuse=0.1.105-1 squashfs-tools=1:4.5.1-1 >"$tmp/apt.log" 2>&1 ||
    { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/unpacked"; done

# The mount is in a mount namespace that goes with its processes.
cat >"$tmp/inside.sh" <<'INSIDE'
set -euo pipefail
cd "$1"
export LD_LIBRARY_PATH=$(echo unpacked/usr/lib/*-linux-gnu | tr ' ' :):$(echo unpacked/lib/*-linux-gnu | tr ' ' :)
unpacked/usr/bin/mksquashfs tree image -quiet -no-progress >/dev/null
unpacked/usr/bin/squashfuse_ll -f image mnt 2>daemon.log &
daemon=$!
trap 'kill -9 $daemon 2>/dev/null || true' EXIT
for _ in $(seq 100); do grep -q "$1/mnt fuse" /proc/self/mounts && break; sleep 0.05; done
stat -c %s mnt mnt/dir mnt/dir/file >/dev/null
kill -9 $daemon
wait $daemon 2>/dev/null || true

changed=0
try() {
    local expected=$1 said
    shift
    if said=$("$@" 2>&1 >/dev/null); then said=works; else said=${said##*: }; said=${said:-fails}; fi
    echo "$*: $said"
    [ "$said" = "$expected" ] || changed=1
}
gone="Transport endpoint is not connected"
try works mountpoint -q mnt
try works test -e mnt/dir/file
try works ls -ld mnt mnt/dir/file
try works find mnt/dir/file -size -1000
try "$gone" stat mnt/dir/file
try "$gone" cat mnt/dir/file
try "$gone" ls mnt/dir
try "$gone" stat -f mnt
exit $changed
INSIDE

echo "Linux $(uname -r), squashfuse 0.1.105-1"
unshare --mount --propagation private bash "$tmp/inside.sh" "$tmp" &
pid=$!
status=0
wait "$pid" || status=$?
pid=
exit "$status"
