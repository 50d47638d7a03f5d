#!/bin/bash
# Program:  Linux (seen with 6.18), FUSE_NOTIFY_INVAL_ENTRY, sent by pyfuse3 3.2.1-2+b2 (Debian 12).
# Expected: the notification makes the kernel forget a cached name, so that it asks again. A name on
#           which something is mounted is busy (rmdir: EBUSY) and stays as it is.
# Seen:     whatever is mounted on the name, or anywhere below it, is unmounted at once. The daemon
#           gets success, and nothing is logged; readers find the bare directory.
# Follows:  a file system that tells the kernel of new content by invalidating names takes away its
#           users' bind mounts and overlays. Let names expire instead (FUSE_EXPIRE_ONLY, since
#           Linux 6.2), or invalidate only names that are never a directory.
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

version=3.2.1-2+b2
mkdir -p "$tmp/debs/partial" "$tmp/root" "$tmp/mnt"
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
    echo "needs root and /dev/fuse"
    exit 2
fi
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "python3-pyfuse3=$version" >"$tmp/apt.log" 2>&1 ||
    { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done

# A file system of two directories, /outer/inner. It invalidates the name `outer` when told to.
cat >"$tmp/daemon.py" <<'PY'
import errno
import os
import stat
import sys

import pyfuse3
import trio

home = sys.argv[1]
OUTER, INNER = 2, 3
CHILDREN = {pyfuse3.ROOT_INODE: (b"outer", OUTER), OUTER: (b"inner", INNER)}


class Directories(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755
        entry.st_nlink = 2
        entry.entry_timeout = entry.attr_timeout = 3600
        return entry

    async def lookup(self, parent, name, ctx=None):
        child, inode = CHILDREN.get(parent, (None, None))
        if name != child:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(inode)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, inode, start, token):
        child = CHILDREN.get(inode)
        if child and start == 0:
            pyfuse3.readdir_reply(token, child[0], await self.getattr(child[1]), 1)


async def invalidate_when_told():
    while not os.path.exists(f"{home}/go"):
        await trio.sleep(0.05)
    await trio.to_thread.run_sync(pyfuse3.invalidate_entry, pyfuse3.ROOT_INODE, b"outer")
    open(f"{home}/invalidated", "w").close()


async def run():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(invalidate_when_told)
        await pyfuse3.main()


pyfuse3.init(Directories(), f"{home}/mnt", {"fsname=names", "default_permissions"})
trio.run(run)
PY

# All mounts are in a mount namespace that goes with its processes.
cat >"$tmp/inside.sh" <<'INSIDE'
set -euo pipefail
cd "$1"
libraries=$(echo "$1"/root/usr/lib/*-linux-gnu):$(echo "$1"/root/lib/*-linux-gnu)
PYTHONPATH=root/usr/lib/python3/dist-packages LD_LIBRARY_PATH=$libraries \
    /usr/bin/python3 daemon.py "$1" 2>daemon.log &
daemon=$!
trap 'kill $daemon 2>/dev/null || true' EXIT
for _ in $(seq 100); do grep -q "$1/mnt fuse" /proc/self/mounts && break; sleep 0.05; done
mount -t tmpfs mounted mnt/outer/inner
echo content >mnt/outer/inner/file
echo "before: $(grep -c "mnt/outer/inner" /proc/self/mounts || true) mount, files: $(ls mnt/outer/inner)"
touch go
for _ in $(seq 100); do [ -e invalidated ] && break; sleep 0.05; done
[ -e invalidated ] || { cat daemon.log; exit 2; }
left=$(grep -c "mnt/outer/inner" /proc/self/mounts || true)
echo "after:  $left mount, files: $(ls mnt/outer/inner)"
[ "$left" = 0 ] && [ ! -e mnt/outer/inner/file ]
INSIDE

echo "Linux $(uname -r), pyfuse3 $version"
unshare --mount --propagation private bash "$tmp/inside.sh" "$tmp" &
pid=$!
status=0
wait "$pid" || status=$?
pid=
exit "$status"
