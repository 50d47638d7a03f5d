#!/bin/bash
# Program:  aria2 1.36.0-1 (Debian 12), a metalink (RFC 5854) with two mirrors and SHA-1 of pieces.
# Expected: a mirror whose bytes do not match the hashes of the pieces is left, and the next URL of
#           the metalink is tried: that is what the list is for.
# Seen:     so it is if the mirrors have two host names. If both URLs have one host name, be their
#           ports and paths as different as they may, the second one is never asked, and the
#           download fails.
# Follows:  mirrors behind one host name (ports, paths of several mirrors at one site, a redirector
#           with a parameter per mirror) are no alternatives to aria2. A metalink names a second
#           host early, and tests of mirror lists on one machine need 127.0.0.1 and 127.0.0.2.
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

version=1.36.0-1
mkdir -p "$tmp/debs/partial" "$tmp/root"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "aria2=$version" "libaria2-0=$version" \
    >"$tmp/apt.log" 2>&1 || { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
libraries=$(echo "$tmp"/root/usr/lib/*-linux-gnu)

# Two mirrors of which the first has an older file, on one host name and on two; the metalinks.
cat >"$tmp/mirrors.py" <<'PY'
import hashlib
import http.server
import random
import sys
import threading

PIECE, SIZE = 1 << 20, 4 << 20
home = sys.argv[1]
content = {"stale": random.Random(1).randbytes(SIZE), "fresh": random.Random(2).randbytes(SIZE)}


class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind = self.path.strip("/")
        with open(f"{home}/requests", "a") as log:
            print(kind, file=log)
        first, _, last = (self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")
        body = content[kind][int(first) : int(last or SIZE - 1) + 1]
        self.send_response(206 if self.headers["Range"] else 200)
        if self.headers["Range"]:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{SIZE}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


def serve(host):
    server = http.server.ThreadingHTTPServer((host, 0), Mirror)
    threading.Thread(target=server.serve_forever).start()
    return f"{host}:{server.server_port}"


fresh = content["fresh"]
pieces = "".join(
    f"<hash>{hashlib.sha1(fresh[at : at + PIECE]).hexdigest()}</hash>" for at in range(0, SIZE, PIECE)
)
for name, second in (("one-host", "127.0.0.1"), ("two-hosts", "127.0.0.2")):
    with open(f"{home}/{name}.meta4", "w") as metalink:
        metalink.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">'
            f'<file name="{name}"><size>{SIZE}</size><pieces length="{PIECE}" type="sha-1">{pieces}</pieces>'
            f'<url priority="1">http://{serve("127.0.0.1")}/stale</url>'
            f'<url priority="2">http://{serve(second)}/fresh</url></file></metalink>\n'
        )
with open(f"{home}/fresh", "wb") as file:
    file.write(fresh)
open(f"{home}/ready", "w").close()
PY
python3 "$tmp/mirrors.py" "$tmp" 2>"$tmp/mirrors.log" &
pid=$!
for _ in $(seq 100); do [ -e "$tmp/ready" ] && break; sleep 0.05; done

cd "$tmp"
echo "aria2 $version"
seen=
for name in one-host two-hosts; do
    : >requests
    status=0
    LD_LIBRARY_PATH=$libraries timeout 25 root/usr/bin/aria2c --no-conf --no-proxy="127.0.0.1,127.0.0.2" \
        --quiet --metalink-file="$name.meta4" >"said-$name" 2>&1 || status=$?
    complete=no
    cmp -s fresh "$name" && complete=yes
    asked=$(sort -u requests | xargs)
    echo "$name: complete: $complete, exit $status, mirrors asked: $asked"
    seen+="$complete $asked;"
done
[ "$seen" = "no stale;yes fresh stale;" ]
