"""Clients: wrk for requests per second, and a reader of our own that throws bytes away in the kernel.

The reader takes its bytes with MSG_TRUNC, which for TCP discards them without copying, so that one core can take what
fifty fast downloads bring.
"""

import json
import os
import pathlib
import resource
import selectors
import socket
import subprocess
import time

import machine

READ_BYTES = 4 << 20
READ_LIMIT_S = 600
HEAD_LIMIT_BYTES = 64 << 10


def wrk(server, path, connections, seconds, header=None, requests=None):
    """One run of wrk against a server; returns its figures with the CPU seconds of the server and of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(pathlib.Path(__file__).with_name("load.lua"))]
    command += ["-H", header] if header else []
    environment = dict(os.environ)
    environment.pop("REQUESTS", None)
    if requests:
        environment["REQUESTS"] = str(requests)
    before, own = server.cpu(), children_cpu()
    done = subprocess.run(
        ["taskset", "--cpu-list", str(machine.LOAD_CORE)] + command + [server.url(path)],
        capture_output=True, text=True, timeout=seconds + 60, env=environment,
    )
    used, own = server.cpu() - before, children_cpu() - own
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode != 0 or line is None:
        raise RuntimeError(f"{command} against {server.name}: {done.stdout}{done.stderr}")
    result = json.loads(line.removeprefix("RESULT "))
    if result["errors"] or not result["requests"]:
        raise RuntimeError(f"{server.name} answered with errors: {done.stdout}")
    return result | {"cpu": used, "load_cpu": own}


def children_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Download:
    """One GET, read to its end and thrown away."""

    def __init__(self, server, path, header=""):
        self.socket = socket.create_connection(("127.0.0.1", server.port), 30)
        self.request = f"GET {path} HTTP/1.1\r\nHost: b\r\n{header}Connection: close\r\n\r\n".encode()
        self.started = self.first = self.ended = None
        self.head, self.left = b"", None

    def start(self):
        self.started = time.monotonic()
        self.socket.sendall(self.request)
        self.socket.setblocking(False)

    def read(self, buffer):
        """Takes what is there; returns how many bytes of content, or None at the end."""
        if self.left is None:
            return self._read_head()
        count = self.socket.recv_into(buffer, min(len(buffer), self.left), socket.MSG_TRUNC)
        if count == 0:
            raise RuntimeError(f"cut with {self.left} bytes missing: {self.head!r}")
        return self._took(count)

    def _read_head(self):
        data = self.socket.recv(HEAD_LIMIT_BYTES)
        self.head += data
        head, end, rest = self.head.partition(b"\r\n\r\n")
        if not end:
            if not data:
                raise RuntimeError(f"no answer: {self.head!r}")
            return 0
        lines = head.lower().split(b"\r\n")
        if lines[0].split()[1] not in (b"200", b"206"):
            raise RuntimeError(f"refused: {head!r}")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        self.head, self.left = head, int(length.split(b":")[1])
        return self._took(len(rest))

    def _took(self, count):
        if count and self.first is None:
            self.first = time.monotonic()
        self.left -= count
        if self.left:
            return count
        self.ended = time.monotonic()
        self.socket.close()
        return None


def download(plans):
    """Runs downloads together in one thread. A plan is (download, bytes that all others have to have read before it
    starts); returns when all have ended."""
    selector, buffer = selectors.DefaultSelector(), bytearray(READ_BYTES)
    waiting, running, total = sorted(plans, key=lambda plan: plan[1]), 0, 0
    limit = time.monotonic() + READ_LIMIT_S
    while waiting or running:
        while waiting and total >= waiting[0][1]:
            plan, _ = waiting.pop(0)
            plan.start()
            selector.register(plan.socket, selectors.EVENT_READ, plan)
            running += 1
        for key, _ in selector.select(1):
            try:
                count = key.data.read(buffer)
            except BlockingIOError:
                continue
            if count is None:
                selector.unregister(key.fileobj)
                running -= 1
            else:
                total += count
        if time.monotonic() > limit:
            raise RuntimeError(f"downloads did not end within {READ_LIMIT_S} s")
    selector.close()
