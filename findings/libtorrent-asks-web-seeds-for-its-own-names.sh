#!/bin/bash
# Program:  libtorrent 2.1.1 (PyPI, `libtorrent`), a torrent of two files with a web seed (BEP 19).
# Expected: a client may store a file under a name that suits its disk; towards the web seed it uses
#           the names in the torrent, since only those are known there.
# Seen:     a backslash is taken out of a name, and a name of 250 bytes is cut to 240, on Linux too,
#           and the *changed* name is what libtorrent asks the web seed for. The first 404 ends the
#           use of this web seed for the whole torrent: the file with the plain name is not
#           downloaded either. Other odd names (`a:b`, `q?`, a leading blank) arrive as they stand.
# Follows:  one such name in a tree takes its web seeds from the whole torrent. Whoever makes
#           torrents names these files, and a web seed answers the changed name as well if no other
#           file has it.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

version=2.1.1
python3 -m venv "$tmp/venv" && "$tmp/venv/bin/pip" --quiet --disable-pip-version-check install \
    "libtorrent==$version" || exit 2

timeout 50 "$tmp/venv/bin/python" -W ignore - "$tmp" <<'PY'
import hashlib
import http.server
import random
import sys
import threading
import time
from urllib.parse import unquote

import libtorrent

PIECE, SIZE = 16384, 40000
home = sys.argv[1]
trees, requests = {}, []


class WebSeed(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(self.path)
        content = trees.get(path)
        requests.append(path.split("/")[-1])
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebSeed)
threading.Thread(target=server.serve_forever, daemon=True).start()
session = libtorrent.session({
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": int(libtorrent.alert.category_t.all_categories),
})


def download(tree, name):
    """Downloads `plain` and a file of that name from the web seed alone: (share, names asked for, stopped)."""
    files, content = [], b""
    for number, file in enumerate(("plain", name)):
        data = random.Random(f"{tree}{number}").randbytes(SIZE)
        trees[f"/{tree}/{file}"] = data
        files.append({b"length": SIZE, b"path": [file.encode()]})
        content += data
    starts = range(0, len(content), PIECE)
    pieces = b"".join(hashlib.sha1(content[at : at + PIECE]).digest() for at in starts)
    info = {b"name": tree.encode(), b"piece length": PIECE, b"pieces": pieces, b"files": files}
    seed = f"http://127.0.0.1:{server.server_port}/".encode()
    torrent = libtorrent.torrent_info(libtorrent.bencode({b"info": info, b"url-list": seed}))
    requests.clear()
    session.pop_alerts()
    handle = session.add_torrent({"ti": torrent, "save_path": home})
    stopped, end = False, time.monotonic() + 8
    while time.monotonic() < end and not handle.status().is_seeding:
        time.sleep(0.1)
        if any(isinstance(alert, libtorrent.url_seed_alert) for alert in session.pop_alerts()):
            stopped, end = True, min(end, time.monotonic() + 3)
    share = handle.status().progress
    session.remove_torrent(handle)
    return share, sorted(set(requests)), stopped


def short(name):
    return name if len(name) < 20 else f"{name[0]} x {len(name)}"


print("libtorrent", libtorrent.__version__)
seen = libtorrent.__version__.startswith("2.1.1")
cases = [("a:b", "a:b"), (" q?", " q?"), ("a\\b", "ab"), ("x" * 250, "x" * 240)]
for number, (name, asked) in enumerate(cases):
    share, names, stopped = download(f"tree-{number}", name)
    names_asked = ", ".join(repr(short(name)) for name in names)
    print(f"{short(name)!r}: asked for {names_asked}; {share:.0%} downloaded, web seed given up: {stopped}")
    seen &= names == sorted(["plain", asked])
    seen &= share == 1 and not stopped if name == asked else share < 1 and stopped
sys.exit(0 if seen else 1)
PY
