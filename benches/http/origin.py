"""A proxy that lets an origin send only so many bytes a second to all clients together, and counts them.

    origin.py TARGET_PORT BYTES_PER_SECOND

Prints its port as a line of JSON; then, for every line on standard input, the requests and bytes since the last one.
It ends with its standard input.
"""

import json
import re
import socket
import sys
import threading
import time

CHUNK = 64 << 10
# What may be sent at once after a pause: small, so that a cold fetch is capped from its first byte.
BURST = 4 * CHUNK
REQUEST_LINE = re.compile(rb" HTTP/1\.[01]\r\n")


class Bucket:
    """Tokens are bytes; they drip in at the rate, up to the burst."""

    def __init__(self, rate):
        self.rate, self.tokens, self.at, self.lock = rate, float(BURST), time.monotonic(), threading.Lock()

    def take(self, count):
        with self.lock:
            now = time.monotonic()
            self.tokens = min(BURST, self.tokens + (now - self.at) * self.rate) - count
            self.at = now
            wait = -self.tokens / self.rate
        if wait > 0:
            time.sleep(wait)


class Counts:
    def __init__(self):
        self.lock, self.requests, self.bytes = threading.Lock(), 0, 0

    def add(self, requests, count):
        with self.lock:
            self.requests += requests
            self.bytes += count

    def take(self):
        with self.lock:
            taken = {"requests": self.requests, "bytes": self.bytes}
            self.requests = self.bytes = 0
        return taken


def forward_requests(client, origin, counts):
    """Requests go through as they are; one that is cut in two inside its first line's end is not counted."""
    try:
        while data := client.recv(CHUNK):
            counts.add(len(REQUEST_LINE.findall(data)), 0)
            origin.sendall(data)
        origin.shutdown(socket.SHUT_WR)
    except OSError:
        origin.close()


def forward_answers(client, origin, bucket, counts):
    buffer = memoryview(bytearray(CHUNK))
    try:
        while count := origin.recv_into(buffer):
            bucket.take(count)
            client.sendall(buffer[:count])
            counts.add(0, count)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the client wants no more; the origin is told below
    finally:
        for side in (client, origin):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            side.close()


def accept(listener, target, bucket, counts):
    while True:
        client, _ = listener.accept()
        origin = socket.create_connection(("127.0.0.1", target))
        for side in (client, origin):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Little in flight, so that what an origin has sent is what somebody took.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BURST)
        origin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BURST)
        for work, arguments in ((forward_requests, (counts,)), (forward_answers, (bucket, counts))):
            threading.Thread(target=work, args=(client, origin) + arguments, daemon=True).start()


def main():
    target, rate = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    bucket, counts = Bucket(rate), Counts()
    threading.Thread(target=accept, args=(listener, target, bucket, counts), daemon=True).start()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(counts.take()), flush=True)


if __name__ == "__main__":
    main()
