#!/bin/bash
# Program:  rTorrent 0.9.8-1 with libtorrent (rakshasa) 0.13.8-2 (Debian 12).
# Expected: pad files (BEP 47: `attr` has a `p`) are never written to the disk, and BEP 47 proposes
#           the path `.pad/N`, where N is their length. So two pads of one length have one path, and
#           a client may either know pads, or write the same zeros to one file twice.
# Seen:     rTorrent does not know pads and refuses the torrent when it is started: "Duplicate
#           filename found". The same content with pads of different paths is started.
# Follows:  whoever makes torrents gives every pad a path of its own, against BEP 47's proposal;
#           the more files a torrent has, the surer are two of its pads of one length.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried.
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

version=0.9.8-1
library=0.13.8-2+b1
mkdir -p "$tmp/debs/partial" "$tmp/root" "$tmp/session" "$tmp/down"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "rtorrent=$version" "libtorrent21=$library" \
    >"$tmp/apt.log" 2>&1 || { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
libraries=$(echo "$tmp"/root/usr/lib/*-linux-gnu)

# Three files of 10,000 bytes, each but the last followed by a pad up to the next piece.
python3 - "$tmp" <<'PY'
import hashlib
import sys

PIECE, SIZE = 16384, 10000


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


for name, pads in [("one-path", ["6384", "6384"]), ("own-paths", ["6384", "6384-2"])]:
    files, content = [], b""
    for number, pad in enumerate([*pads, None]):
        files.append({"length": SIZE, "path": [f"file-{number}"]})
        content += bytes([number + 1]) * SIZE
        if pad:
            files.append({"attr": "p", "length": PIECE - SIZE, "path": [".pad", pad]})
            content += bytes(PIECE - SIZE)
    starts = range(0, len(content), PIECE)
    pieces = b"".join(hashlib.sha1(content[at : at + PIECE]).digest() for at in starts)
    info = {"files": files, "name": name, "piece length": PIECE, "pieces": pieces}
    with open(f"{sys.argv[1]}/{name}.torrent", "wb") as torrent:
        torrent.write(bencode({"announce": "http://127.0.0.1:9/announce", "info": info}))
    with open(f"{sys.argv[1]}/{name}.id", "w") as info_hash:
        info_hash.write(hashlib.sha1(bencode(info)).hexdigest().upper())
PY

cat >"$tmp/rtorrent.rc" <<RC
system.daemon.set = true
session.path.set = $tmp/session
directory.default.set = $tmp/down
network.bind_address.set = 127.0.0.1
dht.mode.set = disable
log.open_file = "log", "$tmp/log"
log.add_output = "info", "log"
log.add_output = "torrent_info", "log"
RC
LD_LIBRARY_PATH=$libraries "$tmp/root/usr/bin/rtorrent" -n -o "import=$tmp/rtorrent.rc" \
    "$tmp/one-path.torrent" "$tmp/own-paths.torrent" >"$tmp/out" 2>&1 </dev/null &
pid=$!
one=$(cat "$tmp/one-path.id")
own=$(cat "$tmp/own-paths.id")
for _ in $(seq 200); do
    grep -q "$own.*Starting torrent" "$tmp/log" 2>/dev/null &&
        grep -q "$one.*\(Starting torrent\|Failed to prepare\)" "$tmp/log" && break
    sleep 0.1
done

echo "rtorrent $version, libtorrent21 $library"
echo "pads of one path:   $(grep -m 1 -o "$one.*\(Starting torrent\|Failed to prepare.*\)" "$tmp/log" || true)"
echo "pads of own paths:  $(grep -m 1 -o "$own.*\(Starting torrent\|Failed to prepare.*\)" "$tmp/log" || true)"
grep -q "$one.*Failed to prepare file.*Duplicate filename found" "$tmp/log" || exit 1
grep -q "$own.*Starting torrent" "$tmp/log" || exit 1
! grep -q "$one.*Starting torrent" "$tmp/log"
