#!/bin/bash
# Program:  zsync 0.6.2-5 (Debian 12).
# Expected: a server may ignore `Range` at any time and answer 200 with the whole file (RFC 9110,
#           14.2); many do when a request asks for more ranges than they like. The client then has
#           all that it wanted, or asks for fewer ranges.
# Seen:     zsync asks for up to 20 ranges in one request. Answered by 200, it gives up ("failed to
#           retrieve", exit 2) and leaves `FILE.part`; it does not ask for fewer, nor take the file.
#           From a server that allows 20 the same download succeeds.
# Follows:  a server with a lower limit of ranges (16 is a common guess against abuse) is no server
#           for zsync. Allow 20 at least, and bound by overlap and by bytes rather than by number.
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

version=0.6.2-5
mkdir -p "$tmp/debs/partial" "$tmp/root"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "zsync=$version" >"$tmp/apt.log" 2>&1 ||
    { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
export PATH="$tmp/root/usr/bin:$PATH"

# The server takes /LIMIT/file: requests for more than LIMIT ranges are answered by the whole file.
cat >"$tmp/server.py" <<'PY'
import http.server
import random
import re
import sys

home = sys.argv[1]
new = random.Random(1).randbytes(2 << 20)
old = bytearray(new)
for number in range(30):
    at = number * 64000 + 5000
    old[at : at + 4096] = bytes(4096)
for name, content in (("new", new), ("old", bytes(old))):
    with open(f"{home}/{name}", "wb") as file:
        file.write(content)


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        limit = int(self.path.split("/")[1])
        ranges = [tuple(map(int, pair)) for pair in re.findall(r"(\d+)-(\d+)", self.headers["Range"] or "")]
        fields, body, status = [("Content-Type", "application/octet-stream")], new, 200
        if len(ranges) == 1:
            first, last = ranges[0]
            status, body = 206, new[first : last + 1]
            fields.append(("Content-Range", f"bytes {first}-{last}/{len(new)}"))
        elif 1 < len(ranges) <= limit:
            fields = [("Content-Type", "multipart/byteranges; boundary=next")]
            part = b"\r\n--next\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
            parts = [part % (first, last, len(new)) + new[first : last + 1] for first, last in ranges]
            status, body = 206, b"".join(parts) + b"\r\n--next--\r\n"
        with open(f"{home}/requests-{limit}", "a") as log:
            print(f"{len(ranges)} ranges: {status}", file=log)
        self.send_response(status)
        for field in fields:
            self.send_header(*field)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
with open(f"{home}/port", "w") as ready:
    ready.write(str(server.server_port))
server.serve_forever()
PY
python3 "$tmp/server.py" "$tmp" 2>"$tmp/server.log" &
pid=$!
for _ in $(seq 100); do [ -s "$tmp/port" ] && break; sleep 0.05; done
port=$(cat "$tmp/port")

cd "$tmp"
echo "zsync $version"
for limit in 20 16; do
    zsyncmake -b 2048 -u "http://127.0.0.1:$port/$limit/file" -o "$limit.zsync" new
    status=0
    env -u http_proxy timeout 30 zsync -q -i old -o "out-$limit" "$limit.zsync" >"said-$limit" 2>&1 ||
        status=$?
    same=differs
    cmp -s new "out-$limit" && same=same
    echo "$status $same" >"result-$limit"
    echo "limit of $limit ranges: exit $status, file $same; requests: $(paste -sd, "requests-$limit")"
    tail -n 2 "said-$limit"
done
[ "$(cat result-20)" = "0 same" ] && [ "$(cat result-16)" = "2 differs" ]
