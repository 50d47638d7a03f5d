#!/usr/bin/env python3
"""Measures what a node fetches ahead, and what its clients feel of it, and prints a Markdown table.

    cargo build --release -p imserver -p imnode
    python3 benches/fetch/run.py --bin target/release            some minutes
    python3 benches/fetch/run.py --bin target/release --quick    a smoke test; its figures mean nothing

Two parts. *Small files*: a node takes in 100,000 of them by its pre-seed rules, in batches and with one request for each
(`[fetch] batched = "0 B"`), beside `rsync -a` from an rsync daemon into an empty directory; rounds are interleaved.
*Clients*: the time to the first byte of cold files of 64 KiB, on a node that does nothing else and on one that takes in
large and small files at full speed meanwhile; requests to the two nodes alternate. Place, network and processes as in
benches/run.py.
"""

import argparse
import http.client
import importlib.util
import json
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE.parent / "run.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
bench.STEP_LIMIT_S = 900
MIB = 1 << 20


class Sizes:
    """How much is measured."""

    def __init__(self, quick):
        self.files = 2_000 if quick else 100_000
        self.per_directory = 100
        self.rounds = 1 if quick else 3
        self.clients = 10 if quick else 300
        self.large_files = 2 if quick else 24
        self.large_bytes = (2 if quick else 256) * MIB


def build_small(folder, sizes):
    """Sizes as those of packages' metadata and sources: most of some KiB, mean 6 KiB."""
    source = random.Random(11)
    for i in range(sizes.files):
        directory = folder / f"d{i // sizes.per_directory:04}"
        if i % sizes.per_directory == 0:
            directory.mkdir(parents=True)
        (directory / f"f{i:06}").write_bytes(source.randbytes(source.choice((200, 1_000, 3_000, 8_000, 18_000))))


def status(world, config):
    return json.loads(bench.run([world.imnode, "--config", config, "status", "--json"])[1])


def wait_until_here(world, config):
    """Until all rules are done; returns the bytes that were fetched."""
    deadline = time.monotonic() + bench.STEP_LIMIT_S
    while time.monotonic() < deadline:
        said = status(world, config)
        ahead = said["preseed"]
        if ahead and ahead[0]["steps"] and all(step["is_over"] for step in ahead[0]["steps"]):
            if any(step["failed"] for step in ahead[0]["steps"]):
                raise RuntimeError(f"not all could be had: {ahead}")
            return said["cache"]["used_bytes"]
        time.sleep(0.05)
    raise RuntimeError("it takes too long")


def stop(*daemons):
    for daemon in daemons:
        daemon.terminate()
        daemon.wait()


def take_in(world, config, server):
    """Starts a node that fetches everything; returns what that cost, with the master's CPU, until all is here."""
    before = bench.cpu_of(server)
    started = time.monotonic()
    node, _ = world.daemon([world.imnode, "--config", config, "run"], config.parent / "log")
    held = wait_until_here(world, config)
    wall = time.monotonic() - started
    cost = bench.Cost(wall, bench.cpu_of(node) + bench.cpu_of(server) - before)
    stop(node)
    return cost, held


class RsyncDaemon:
    """An rsync daemon of one module on a free port."""

    def __init__(self, world, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = world.place / "rsyncd.conf"
        config.write_text(f"use chroot = no\nport = {self.port}\naddress = 127.0.0.1\n[tree]\npath = {folder}\nread only = yes\n")
        command = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        world.daemons.append(self.process)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("the rsync daemon does not listen")

    def copy(self, target):
        return bench.run(["rsync", "-a", f"rsync://127.0.0.1:{self.port}/tree/", f"{target}/"])[0]


def small_files(world, sizes):
    source = world.place / "small"
    build_small(source, sizes)
    master_config, key = world.master("small-master", source)
    world.publish(master_config)
    server, master = world.daemon([world.imserver, "--config", master_config, "serve"], world.place / "small-master.log")
    rsync = RsyncDaemon(world, source)
    batches, singles, copies = [], [], []
    for i in range(sizes.rounds):
        kinds = [(batches, ""), (singles, '[fetch]\nbatched = "0 B"\n')]
        for runs, more in kinds if i % 2 == 0 else reversed(kinds):
            config = world.node_config("small-node", master, key)
            config.write_text(f'[preseed]\nfirst = ["**"]\n{more}' + config.read_text())
            cost, held = take_in(world, config, server)
            runs.append(cost)
            shutil.rmtree(config.parent)
        copy = world.place / "copy"
        copies.append(rsync.copy(copy))
        shutil.rmtree(copy)
    stop(server)
    rate = lambda runs: f"{sizes.files / statistics.median(run.wall for run in runs):.0f} files/s, {bench.costs(runs)}"
    table = world.table
    table.add(f"{sizes.files} files of {held / sizes.files:.0f} B on average, in batches", rate(batches))
    table.add("the same beside one request for each", "", rate(singles), bench.ratios(batches, singles))
    table.add("the same beside `rsync -a` from an rsync daemon (its CPU without the daemon's)", "", rate(copies), bench.ratios(batches, copies))


def first_byte(connection, path, expected):
    """Milliseconds to the first byte of a body."""
    started = time.monotonic()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read(1)
    took = (time.monotonic() - started) * 1000
    rest = answer.read()
    if answer.status != 200 or 1 + len(rest) != expected:
        raise RuntimeError(f"{path}: {answer.status}")
    return took


def clients(world, sizes):
    source = world.place / "mixed"
    generator = random.Random(12)
    (source / "cold").mkdir(parents=True)
    for i in range(sizes.clients):
        (source / "cold" / f"{i}").write_bytes(generator.randbytes(64 << 10))
    build_small(source / "small", sizes)
    for i in range(sizes.large_files):
        with open(source / f"image-{i}.iso", "wb") as file:
            for _ in range(sizes.large_bytes // MIB):
                file.write(generator.randbytes(MIB))
    master_config, key = world.master("mixed-master", source)
    world.publish(master_config)
    server, master = world.daemon([world.imserver, "--config", master_config, "serve"], world.place / "mixed-master.log")
    idle_config = world.node_config("idle-node", master, key)
    idle, idle_address = world.daemon([world.imnode, "--config", idle_config, "run"], world.place / "idle.log")
    busy_config = world.node_config("busy-node", master, key)
    busy_config.write_text('[preseed]\nfirst = ["*.iso", "small/"]\nnever = ["cold/"]\n' + busy_config.read_text())
    latencies = {"idle": [], "busy": []}
    # Alone first, so that the machine has nothing else to do; then the other.
    measure(idle_address, "idle", range(sizes.clients), latencies)
    busy, busy_address = world.daemon([world.imnode, "--config", busy_config, "run"], world.place / "busy.log")
    time.sleep(0.5)
    before = status(world, busy_config)["cache"]["used_bytes"]
    began = time.monotonic()
    measure(busy_address, "busy", range(sizes.clients), latencies)
    took = time.monotonic() - began
    said = status(world, busy_config)
    still = any(not step["is_over"] for step in said["preseed"][0]["steps"])
    moved = (said["cache"]["used_bytes"] - before) / MIB
    stop(idle, busy, server)
    quantile = lambda values, share: sorted(values)[int((len(values) - 1) * share)]
    for share, name in ((0.5, "median"), (0.99, "p99")):
        ours, alone = quantile(latencies["busy"], share), quantile(latencies["idle"], share)
        world.table.add(
            f"first byte of a cold 64 KiB file while {moved / took:.0f} MiB/s are fetched ahead{'' if still else ' (it ended before)'}, {name}",
            f"{ours:.1f} ms", f"idle {alone:.1f} ms", f"{ours / alone:.2f}",
        )


def measure(address, name, numbers, latencies):
    """One request after the other, with pauses as between the requests of people."""
    host, port = address.split(":")
    generator = random.Random(13)
    for number in numbers:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.connect()
            deadline = time.monotonic() + 30
            while True:
                try:
                    latencies[name].append(first_byte(connection, f"/b/snap/current/cold/{number}", 64 << 10))
                    break
                except RuntimeError:
                    # The node has no snapshot yet.
                    if number > 0 or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
        finally:
            connection.close()
        time.sleep(generator.random() * 0.04)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where imserver and imnode are")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--only", choices=["small", "clients"], help="one of the two parts")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    arguments = parser.parse_args()
    sizes, table = Sizes(arguments.quick), bench.Table()
    with tempfile.TemporaryDirectory(prefix="instantmirror-fetch-", dir=arguments.dir) as place:
        world = bench.Bench(arguments.bin.resolve(), pathlib.Path(place), sizes, table)
        try:
            if arguments.only != "clients":
                small_files(world, sizes)
            if arguments.only != "small":
                clients(world, sizes)
        finally:
            world.stop_all()
            table.print()


if __name__ == "__main__":
    main()
