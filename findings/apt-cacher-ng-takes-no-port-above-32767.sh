#!/bin/bash
# Program:  apt-cacher-ng 3.7.4-1+b2 (Debian 12), glibc 2.36.
# Expected: `Port: N` takes any TCP port, 1 to 65535; so the usual way of tests and of several instances on
#           one machine, a free port of the kernel's ephemeral range (32768 to 60999), works.
# Seen:     up to 32767 it listens. From 32768 on it does not, says "Error resolving address for binding:
#           Success", goes on running with its Unix socket alone, and does not end with an error. The same
#           holds for the server that it asks (`AllowUserPorts: 0`, all ports): with a port of 32768 or more
#           the client gets 503 "Connection refused", though the server is there.
# Follows:  an operator of it picks a port below 32768 and waits for the port, not for the process; a mirror
#           that is to be reached by it listens below 32768, too.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried.
set -euo pipefail

tmp=$(mktemp -d)
pid=
servers=
cleanup() {
    # shellcheck disable=SC2086
    kill $pid $servers 2>/dev/null || true
    wait
    rm -rf "$tmp"
}
trap cleanup EXIT
chmod 755 "$tmp"

version=3.7.4-1+b2
mkdir -p "$tmp/debs/partial" "$tmp/unpacked"
apt-get -qq --yes --reinstall --download-only --no-install-recommends \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$tmp/debs" install "apt-cacher-ng=$version" >"$tmp/apt.log" 2>&1 ||
    { cat "$tmp/apt.log"; exit 2; }
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/unpacked"; done
libraries=$(find "$tmp/unpacked" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)

# Free ports at both sides of the border, one of them the border itself where it is free.
free_ports() {
    python3 - <<'PY'
import socket


def free(candidates):
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


print(free(range(32767, 30000, -1)), free(range(32768, 40000)), free(range(65535, 60000, -1)))
PY
}
echo "apt-cacher-ng $version"

failed=0
for port in $(free_ports); do
    home=$tmp/$port
    mkdir -p "$home/cache" "$home/log"
    cat >"$home/acng.conf" <<CONF
CacheDir: $home/cache
LogDir: $home/log
SocketPath: $home/socket
SupportDir: $tmp/unpacked/usr/lib/apt-cacher-ng
BindAddress: 127.0.0.1
AllowUserPorts: 0
Port: $port
ForeGround: 1
CONF
    LD_LIBRARY_PATH=$libraries "$tmp/unpacked/usr/sbin/apt-cacher-ng" -c "$home" >"$home/output" 2>&1 &
    pid=$!
    seen=silent
    for _ in $(seq 30); do
        if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then seen=listens; break; fi
        sleep 0.1
    done
    runs=no
    kill -0 "$pid" 2>/dev/null && runs=yes
    if [ "$seen" = listens ]; then
        mkdir "$home/served"
        echo "Suite: stable" >"$home/served/Release"
        for target in $(free_ports | cut -d' ' -f1,2); do
            python3 -m http.server --bind 127.0.0.1 --directory "$home/served" "$target" >/dev/null 2>&1 &
            servers="$servers $!"
            until (: <>"/dev/tcp/127.0.0.1/$target") 2>/dev/null; do sleep 0.1; done
            status=$(curl -sS -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/127.0.0.1:$target/Release")
            echo "asked for a file at port $target: $status"
            if [ "$target" -le 32767 ]; then expected=200; else expected=503; fi
            [ "$status" = "$expected" ] || failed=1
        done
        # shellcheck disable=SC2086
        kill $servers
        # shellcheck disable=SC2086
        wait $servers 2>/dev/null || true
        servers=
    fi
    said=$(tr '\n' ' ' <"$home/output")
    echo "port $port: $seen; still runs: $runs; says: ${said:-nothing}"
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
    if [ "$port" -le 32767 ]; then
        [ "$seen" = listens ] || failed=1
    else
        [ "$seen" = silent ] && [ "$runs" = yes ] && [[ $said == *"Error resolving address for binding"* ]] || failed=1
    fi
done
exit "$failed"
