#!/bin/bash
# Program:  aria2 1.36.0-1 (Debian 12), given a magnet link.
# Expected: whoever has nothing yet announces `left` above 0; BEP 3 calls it "the number of bytes
#           this peer still has to download". Seeds alone announce `left=0`.
# Seen:     until aria2 has the metadata it does not know the size, and announces `left=0` with
#           `event=started`: to the tracker it looks like a seed that has just come.
# Follows:  a tracker that tells seeds of leechers only (seeds have no use for each other) names no
#           seed to it: the download by magnet link does not begin where all others are seeds.
#           Name seeds to who says `left=0` too, at least at `event=started`.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried.
set -euo pipefail

tmp=$(mktemp -d)
pids=()
cleanup() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$tmp"
}
trap cleanup EXIT
chmod 755 "$tmp"

version=1.36.0-1
mkdir -p "$tmp/debs/partial" "$tmp/root" "$tmp/down"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "aria2=$version" "libaria2-0=$version" \
    >"$tmp/apt.log" 2>&1 || { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
libraries=$(echo "$tmp"/root/usr/lib/*-linux-gnu)

# The tracker answers every announce with no peers, and writes down what was announced.
cat >"$tmp/tracker.py" <<'PY'
import http.server
import sys
from urllib.parse import parse_qs, urlsplit


class Tracker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        left, event = (query.get(key, ["none"])[0] for key in ("left", "event"))
        with open(sys.argv[2], "a") as log:
            print(f"event={event} left={left}", file=log)
        body = b"d8:intervali60e5:peers0:e"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracker)
with open(sys.argv[1], "w") as ready:
    ready.write(str(server.server_port))
server.serve_forever()
PY
touch "$tmp/announces"
python3 "$tmp/tracker.py" "$tmp/port" "$tmp/announces" &
pids+=($!)
for _ in $(seq 100); do [ -s "$tmp/port" ] && break; sleep 0.05; done
port=$(cat "$tmp/port")

magnet="magnet:?xt=urn:btih:0102030405060708090a0b0c0d0e0f1011121314"
magnet+="&tr=http%3A%2F%2F127.0.0.1%3A$port%2Fannounce"
LD_LIBRARY_PATH=$libraries "$tmp/root/usr/bin/aria2c" --no-conf --enable-dht=false --enable-dht6=false \
    --bt-enable-lpd=false --interface=127.0.0.1 --dir="$tmp/down" "$magnet" >"$tmp/aria2.log" 2>&1 &
pids+=($!)
for _ in $(seq 200); do [ -s "$tmp/announces" ] && break; sleep 0.1; done

echo "aria2 $version, first announce of a magnet link: $(head -n 1 "$tmp/announces")"
[ "$(head -n 1 "$tmp/announces")" = "event=started left=0" ]
