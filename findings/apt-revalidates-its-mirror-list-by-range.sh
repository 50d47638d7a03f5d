#!/bin/bash
# Program:  apt 2.6.2 (Debian 12), `deb mirror+http://HOST/list ...`.
# Expected: apt asks for a list that it has by `If-Modified-Since`, as it does for every index, and
#           gets 304.
# Seen:     the list that it has counts as an unfinished download: apt asks for
#           `Range: bytes=SIZE-` with `If-Range: LAST-MODIFIED`, takes 416 for "unchanged", and goes on
#           with the list that it has. The same run asks for `Release` by `If-Modified-Since`.
# Follows:  the server of a list must decide If-Range before the range (RFC 9110, 13.2.2): one that
#           answers 416 by length alone, or drops If-Range on its way through a cache, keeps its
#           clients at an old list as soon as the new one is not longer. Each change needs a new
#           Last-Modified, so not two changes within a second. Monitoring sees 416 in numbers.
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

version=2.6.2
installed=$(dpkg-query --show --showformat '${Version}' apt || true)
if [ "$installed" != "$version" ]; then
    echo "needs apt $version, has ${installed:-none}"
    exit 2
fi

# A flat repository without packages, and the list that names it.
cat >"$tmp/server.py" <<'PY'
import hashlib
import http.server
import sys
import time
from email.utils import formatdate

home = sys.argv[1]
changed = int(time.time()) - 86400
date = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(changed))
empty = hashlib.sha256(b"").hexdigest()
release = f"Origin: test\nLabel: test\nDate: {date}\nSHA256:\n {empty} 0 Packages\n".encode()
modified = formatdate(changed, usegmt=True)


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        tree = {
            "/list": f"http://127.0.0.1:{self.server.server_port}/tree/\n".encode(),
            "/tree/./Release": release,
            "/tree/./Packages": b"",
        }
        body, status, field = tree.get(self.path), 200, None
        wanted = self.headers["Range"]
        if body is None:
            body, status = b"", 404
        elif self.headers["If-Modified-Since"] == modified:
            body, status = b"", 304
        elif wanted and self.headers["If-Range"] == modified:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            status, field = 206, f"bytes {first}-{len(body) - 1}/{len(body)}"
            if first >= len(body):
                status, field, body = 416, f"bytes */{len(body)}", b""
            else:
                body = body[first:]
        keys = ("Range", "If-Range", "If-Modified-Since")
        conditions = [f"{key}: {self.headers[key]}" for key in keys if self.headers[key]]
        with open(f"{home}/requests", "a") as log:
            print(self.path, status, ", ".join(conditions) or "unconditional", file=log)
        self.send_response(status)
        if status != 404:
            self.send_header("Last-Modified", modified)
        if field:
            self.send_header("Content-Range", field)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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

mkdir -p "$tmp"/state/lists/partial "$tmp"/cache/archives/partial "$tmp"/etc/parts
touch "$tmp/status"
echo "deb [trusted=yes] mirror+http://127.0.0.1:$port/list ./" >"$tmp/etc/sources.list"
update() {
    : >"$tmp/requests"
    timeout 25 env -u http_proxy apt-get -qq update -o Dir::State="$tmp/state" -o Dir::Cache="$tmp/cache" \
        -o Dir::State::status="$tmp/status" -o Dir::Etc::sourcelist="$tmp/etc/sources.list" \
        -o Dir::Etc::sourceparts="$tmp/etc/parts" -o APT::Sandbox::User="$(id -un)"
    grep -E '^/list |/Release ' "$tmp/requests"
}
echo "apt $version"
echo "first update:"
update
grep -q '^/list 200 unconditional$' "$tmp/requests" || exit 1
size=$(stat -c %s "$tmp"/state/lists/auxfiles/*_list)
echo "second update, the list of $size bytes and the tree as before:"
update
grep -q "^/list 416 Range: bytes=$size-, If-Range: " "$tmp/requests" || exit 1
grep -q '^/tree/./Release 304 If-Modified-Since: ' "$tmp/requests"
