#!/bin/bash
# Program:  nginx 1.22.1-9+deb12u11 (Debian 12) on Linux, `sendfile on; tcp_nopush on;`, over loopback.
# Expected: `tcp_nopush` (TCP_CORK) makes full packets and costs no time: nginx pulls the cork at the
#           end of each answer, whatever kind of answer it is.
# Seen:     five ranges of 16 KiB in one request, on a connection that is kept, take 40 ms each time:
#           the last segment waits until the client's kernel has sent its delayed acknowledgement.
#           One range of the same 80 KiB, or `tcp_nopush off`, takes less than 2 ms. It depends on the
#           sizes: seen where the answer is a little longer than one segment (64 KiB on loopback),
#           not with an MTU of 1500.
# Follows:  clients that fetch many small ranges (zsync, zchunk, a cache that fills its gaps) through
#           a proxy on the same machine get 25 requests a second. Who sends a multipart answer with
#           TCP_CORK sets TCP_NODELAY too, or marks its pieces with MSG_MORE instead.
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

version=1.22.1-9+deb12u11
mkdir -p "$tmp/debs/partial" "$tmp/root" "$tmp/www"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "nginx=$version" >"$tmp/apt.log" 2>&1 ||
    { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done

head -c 1000000 /dev/zero >"$tmp/www/file"
read -r on off < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[s.getsockname()[1] for s in sockets])')
cat >"$tmp/nginx.conf" <<CONF
daemon off;
pid $tmp/pid;
error_log $tmp/error.log;
events {}
http {
    access_log off;
    sendfile on;
    client_body_temp_path $tmp/t1;
    proxy_temp_path $tmp/t2;
    fastcgi_temp_path $tmp/t3;
    uwsgi_temp_path $tmp/t4;
    scgi_temp_path $tmp/t5;
    root $tmp/www;
    server { listen 127.0.0.1:$on; tcp_nopush on; }
    server { listen 127.0.0.1:$off; tcp_nopush off; }
}
CONF
"$tmp/root/usr/sbin/nginx" -e "$tmp/error.log" -c "$tmp/nginx.conf" &
pid=$!

echo "nginx $version, Linux $(uname -r)"
python3 - "$on" "$off" <<'PY'
import http.client
import statistics
import sys
import time

ROUNDS, SIZE = 20, 16384


def connect(port):
    for _ in range(100):
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.connect()
            return client
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit(2)


def median_ms(port, ranges):
    client, times = connect(port), []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        client.request("GET", "/file", headers={"Range": f"bytes={ranges}"})
        answer = client.getresponse()
        body = answer.read()
        times.append(1000 * (time.perf_counter() - begun))
        assert answer.status == 206 and len(body) >= 5 * SIZE
    client.close()
    return statistics.median(times)


five = ",".join(f"{at}-{at + SIZE - 1}" for at in range(0, 500000, 100000))
one = f"0-{5 * SIZE - 1}"
medians = {}
for name, port in zip(("on", "off"), map(int, sys.argv[1:])):
    for kind, ranges in (("five ranges", five), ("one range", one)):
        medians[name, kind] = median_ms(port, ranges)
        print(f"tcp_nopush {name}, {kind}: median {medians[name, kind]:.2f} ms of {ROUNDS}")
slow = medians.pop(("on", "five ranges"))
sys.exit(0 if slow > 30 and max(medians.values()) < 10 else 1)
PY
