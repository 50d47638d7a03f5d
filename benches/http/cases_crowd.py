"""Clean clients beside a crowd: how much longer they wait, and what a connection that waits costs in memory."""

import pathlib
import statistics
import subprocess
import sys

import load
import machine
import servers
import tree

NAME = "crowd"
CLEAN = 50


def resident_bytes(server):
    """Resident memory of a server's processes."""
    total = 0
    for pid in machine.family(server.child.pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), None)
        total += int(line.split()[1]) * 1024 if line else 0
    return total


class Crowd:
    """The crowd while it stands there."""

    def __init__(self, server, sizes):
        command = [sys.executable, str(pathlib.Path(__file__).with_name("crowd.py"))]
        command += [str(server.port), str(sizes.idle_clients), str(sizes.slow_clients)]
        self.child = subprocess.Popen(
            ["taskset", "--cpu-list", str(machine.LOAD_CORE)] + command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        if self.child.stdout.readline() != "ready\n":
            self.child.kill()
            raise RuntimeError(f"the crowd before {server.name} did not come together")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait(60)


def measure(binaries, place, sizes, wanted, say):
    """For each server the p99 of clean clients alone and beside the crowd, and the memory per connection of it."""
    if NAME not in wanted:
        return None
    root = place / "root"
    tree.build_warm(root / servers.PREFIX.strip("/"), sizes)
    master = servers.Master(binaries, place / "master", root / servers.PREFIX.strip("/"))
    both = [
        servers.node(binaries, place / "node", master.port, master.key),
        servers.nginx_files("nginx", place / "nginx", root, "on"),
    ]
    found = {}
    for server in both:
        load.wrk(server, "4k", CLEAN, 1)
        alone, beside, memory = [], [], []
        for _ in range(sizes.rounds):
            alone.append(load.wrk(server, "4k", CLEAN, sizes.seconds)["p99_us"])
            before = resident_bytes(server)
            with Crowd(server, sizes):
                memory.append((resident_bytes(server) - before) / (sizes.idle_clients + sizes.slow_clients))
                beside.append(load.wrk(server, "4k", CLEAN, sizes.seconds)["p99_us"])
        found[server.name] = {
            "alone_us": statistics.median(alone), "beside_us": statistics.median(beside),
            "ratio": statistics.median(b / a for a, b in zip(alone, beside)),
            # Later rounds find memory that the first has touched.
            "bytes_per_connection": memory[0],
        }
        say(f"crowd: {server.name} {found[server.name]}")
    machine.stop_all()
    return found
