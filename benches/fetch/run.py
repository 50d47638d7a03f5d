#!/usr/bin/env python3
"""Measures what a node fetches ahead, and what its clients feel of it, and prints a Markdown table.

    cargo build --release -p imserver -p imnode -p fetch-bench
    python3 benches/fetch/run.py --bin target/release                           on loopback, where nothing takes time
    python3 benches/fetch/run.py --bin target/release --volumes                 the same on new file systems; as root
    python3 benches/fetch/run.py --bin target/release --rtt 20 --rate 1000      a line of 20 ms and 1000 Mbit/s; as root
    python3 benches/fetch/run.py --bin target/release --against /tmp/old        the same with an older imnode beside
    python3 benches/fetch/run.py --bin target/release --quick                   a smoke test; its figures mean nothing

Two parts. *Small files*: a node takes in 100,000 of them by its pre-seed rules, in batches and with one request for each
(`[fetch] batched = "0 B"`), beside `rsync -a` from an rsync daemon into an empty directory; rounds are interleaved.
*Clients*: the time to the first byte of cold files of 64 KiB, on a node that does nothing else and on one that takes in
large and small files at full speed meanwhile; rounds are interleaved too, each with new nodes.

With `--against` an older node takes part in every round, with the same master; the rows that compare say "the same beside the
older node".

With `--rtt` everything between node (or rsync) and master goes through `fetch-bench delay`; with `--rate` the master and the
rsync daemon are in a network namespace of their own, at the other end of a veth pair that `tc tbf` limits both ways.
With `--rate` or `--volumes` all of it is in a network namespace of its own.
With `--volumes` (as root) whatever takes files in has an ext4 file system of its own, made for that round: one that has just
seen a hundred thousand files deleted is another one, above all if it has no journal. Place and processes as in
benches/run.py.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE.parent / "run.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
bench.STEP_LIMIT_S = 900
MIB = 1 << 20
CLIENT_FILE_BYTES = 64 << 10
# Set in the process that has a network namespace of its own.
INSIDE = "FETCH_BENCH_INSIDE"


class Sizes:
    """How much is measured."""

    def __init__(self, arguments):
        quick = arguments.quick
        self.files = arguments.files or (2_000 if quick else 100_000)
        self.per_directory = 100
        self.rounds = arguments.rounds or (1 if quick else 3)
        self.clients = 10 if quick else 200
        self.large_files = 2 if quick else 16
        self.large_bytes = (2 if quick else 256) * MIB
        self.volumes, self.volume_bytes = arguments.volumes, 8 << 30
        self.older_node = arguments.against.resolve() / "imnode" if arguments.against else None


class Volume:
    """Where something takes files in: a directory, or a new file system. Gone at the end."""

    def __init__(self, world, sizes):
        self.place, self.image, self.is_mounted = world.place / "volume", None, False
        self.place.mkdir()
        if sizes.volumes:
            self.image = world.place / "volume.img"
            with open(self.image, "wb") as image:
                image.truncate(sizes.volume_bytes)
            bench.run(["mkfs.ext4", "-q", "-F", self.image])

    def __enter__(self):
        if self.image:
            bench.run(["mount", "-o", "loop", self.image, self.place])
            self.is_mounted = True
        os.sync()
        return self.place

    def __exit__(self, *_):
        if self.is_mounted:
            bench.run(["umount", self.place])
            self.image.unlink()
        shutil.rmtree(self.place)


class Link:
    """The way from the node to the master."""

    def __init__(self, program, rtt_ms, rate_mbit):
        self.program, self.rtt_ms, self.rate_mbit = program, rtt_ms, rate_mbit
        self.master_side, self.address = [], "127.0.0.1"
        self.holder = None

    def lay(self):
        """The namespaces end with the processes in them. TCP is Linux's default one: with BBR, which some systems have instead,
        an answer of 64 KiB on an old connection stands still for 100 ms now and then, whoever sends it."""
        if INSIDE not in os.environ:
            return
        cubic = "sysctl -q -w net.ipv4.tcp_congestion_control=cubic".split()
        for command in ("ip link set lo up".split(), cubic):
            subprocess.run(command, check=True)
        if not self.rate_mbit:
            return
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        here = pathlib.Path("/proc/self/ns/net").readlink()
        there = pathlib.Path(f"/proc/{self.holder.pid}/ns/net")
        while there.readlink() == here:
            time.sleep(0.01)
        self.master_side, self.address = ["nsenter", f"--net={there}"], "10.99.0.1"
        for command in (
            "ip link add node0 type veth peer name master0",
            f"ip link set master0 netns {self.holder.pid}",
            "ip address add 10.99.0.2/24 dev node0",
            "ip link set node0 up",
        ):
            subprocess.run(command.split(), check=True)
        for command in ("ip link set lo up", "ip address add 10.99.0.1/24 dev master0", "ip link set master0 up"):
            subprocess.run([*self.master_side, *command.split()], check=True)
        subprocess.run([*self.master_side, *cubic], check=True)
        shape = f"root tbf rate {self.rate_mbit}mbit burst 256kb latency 50ms".split()
        subprocess.run(["tc", "qdisc", "add", "dev", "node0", *shape], check=True)
        subprocess.run([*self.master_side, "tc", "qdisc", "add", "dev", "master0", *shape], check=True)

    def to(self, world, address):
        """How a node reaches what the master's side has at an address."""
        if not self.rtt_ms:
            return address
        command = [self.program, "delay", "--to", address, "--rtt-ms", self.rtt_ms]
        return world.daemon(command, world.place / "delay.log")[1]

    def cut(self):
        if self.holder:
            self.holder.kill()
            self.holder.wait()


def build_small(folder, sizes):
    """Sizes as those of packages' metadata and sources: most of some KiB, mean 6 KiB."""
    source = random.Random(11)
    for i in range(sizes.files):
        directory = folder / f"d{i // sizes.per_directory:04}"
        if i % sizes.per_directory == 0:
            directory.mkdir(parents=True)
        (directory / f"f{i:06}").write_bytes(source.randbytes(source.choice((200, 1_000, 3_000, 8_000, 18_000))))


def wait_until_here(config):
    """Until all rules are done."""
    deadline = time.monotonic() + bench.STEP_LIMIT_S
    while time.monotonic() < deadline:
        said = bench.node_status(config)
        ahead = said["preseed"]
        if ahead and ahead[0]["steps"] and all(step["is_over"] for step in ahead[0]["steps"]):
            if any(step["failed"] for step in ahead[0]["steps"]):
                raise RuntimeError(f"not all could be had: {ahead}")
            return
        time.sleep(0.05)
    raise RuntimeError("it takes too long")


def stop(*daemons):
    for daemon in daemons:
        daemon.terminate()
        daemon.wait()


def serve(world, link, name, source):
    """A master of this tree on its side of the link; returns the daemon, where nodes find it, and its key."""
    config, key = world.master(name, source)
    world.publish(config)
    config.write_text(config.read_text().replace("127.0.0.1:0", f"{link.address}:0"))
    command = [*link.master_side, world.imserver, "--config", config, "serve"]
    server, address = world.daemon(command, world.place / f"{name}.log")
    return server, link.to(world, address), key


def take_in(world, imnode, config, server):
    """Starts a node that fetches everything; returns what that cost, with the master's CPU, until all is here."""
    before = bench.cpu_of(server)
    started = time.monotonic()
    node, _ = world.daemon([imnode, "--config", config, "run"], config.parent / "log")
    wait_until_here(config)
    wall = time.monotonic() - started
    cost = bench.Cost(wall, bench.cpu_of(node) + bench.cpu_of(server) - before)
    stop(node)
    return cost


class RsyncDaemon:
    """An rsync daemon of one module on the master's side."""

    def __init__(self, world, link, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = world.place / "rsyncd.conf"
        config.write_text(f"use chroot = no\nport = {port}\naddress = {link.address}\n[tree]\npath = {folder}\nread only = yes\n")
        command = [*link.master_side, "rsync", "--daemon", "--no-detach", f"--config={config}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        world.daemons.append(self.process)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((link.address, port)) == 0:
                    self.address = link.to(world, f"{link.address}:{port}")
                    return
            time.sleep(0.02)
        raise RuntimeError("the rsync daemon does not listen")

    def copy(self, target):
        return bench.run(["rsync", "-a", f"rsync://{self.address}/tree/", f"{target}/"])[0]


def small_files(world, link, sizes):
    source = world.place / "small"
    build_small(source, sizes)
    server, master, key = serve(world, link, "small-master", source)
    rsync = RsyncDaemon(world, link, source)
    runs = {"batches": [], "singles": [], "copies": []}

    def fetch(kind, more, imnode=world.imnode):
        with Volume(world, sizes) as place:
            config = world.node_config(place / "node", master, key)
            config.write_text(f'[preseed]\nfirst = ["**"]\n{more}' + config.read_text())
            runs.setdefault(kind, []).append(take_in(world, imnode, config, server))

    def copy():
        with Volume(world, sizes) as place:
            runs["copies"].append(rsync.copy(place / "copy"))

    steps = [
        lambda: fetch("batches", ""),
        lambda: fetch("singles", '[fetch]\nbatched = "0 B"\n'),
        copy,
    ]
    if sizes.older_node:
        steps.append(lambda: fetch("older", "", sizes.older_node))
    for i in range(sizes.rounds):
        # Who comes when changes, and each begins with nothing waiting to be written.
        for k in range(len(steps)):
            steps[(i + k) % len(steps)]()
        print(*(f"{kind} {costs[-1].wall:.2f} s" for kind, costs in runs.items()), sep=", ", file=sys.stderr)
    stop(server)
    batches, singles, copies = (runs[kind] for kind in ("batches", "singles", "copies"))
    held = bench.tree_bytes(source)
    rate = lambda runs: f"{sizes.files / statistics.median(run.wall for run in runs):.0f} files/s, {bench.costs(runs)}"
    table = world.table
    table.add(f"{sizes.files} files of {held / sizes.files:.0f} B on average, in batches", rate(batches))
    table.add("the same beside one request for each", "", rate(singles), bench.ratios(batches, singles))
    if sizes.older_node:
        table.add("the same beside the older node", "", rate(runs["older"]), bench.ratios(batches, runs["older"]))
    table.add("the same beside `rsync -a` from an rsync daemon (its CPU without the daemon's)", "", rate(copies), bench.ratios(batches, copies))
    shutil.rmtree(source)


def clients(world, link, sizes):
    source = world.place / "mixed"
    generator = random.Random(12)
    (source / "cold").mkdir(parents=True)
    for i in range(sizes.clients):
        (source / "cold" / f"{i}").write_bytes(generator.randbytes(CLIENT_FILE_BYTES))
    build_small(source / "small", sizes)
    for i in range(sizes.large_files):
        with open(source / f"image-{i}.iso", "wb") as file:
            for _ in range(sizes.large_bytes // MIB):
                file.write(generator.randbytes(MIB))
    server, master, key = serve(world, link, "mixed-master", source)
    rules = {
        "idle": "",
        "large": '[preseed]\nfirst = ["*.iso"]\nnever = ["cold/"]\n',
        "small": '[preseed]\nfirst = ["small/"]\nnever = ["cold/"]\n',
    }
    nodes = {"": world.imnode} | ({"older, ": sizes.older_node} if sizes.older_node else {})
    steps = [(age + rule, rule, imnode) for rule in rules for age, imnode in nodes.items()]
    latencies, rates, ended = {kind: [] for kind, *_ in steps}, {kind: [] for kind, *_ in steps}, set()
    for i in range(sizes.rounds):
        for kind, rule, imnode in steps if i % 2 == 0 else reversed(steps):
            with Volume(world, sizes) as place:
                config = world.node_config(place / "node", master, key)
                config.write_text(rules[rule] + config.read_text())
                node, address = world.daemon([imnode, "--config", config, "run"], world.place / f"{rule}.log")
                time.sleep(1)
                before, began = bench.node_status(config)["cache"]["used_bytes"], time.monotonic()
                some = measure(world, link, address, sizes.clients)
                took, said = time.monotonic() - began, bench.node_status(config)
                stop(node)
            latencies[kind] += some
            rates[kind].append((said["cache"]["used_bytes"] - before) / MIB / took)
            if all(step["is_over"] for ahead in said["preseed"] for step in ahead["steps"]):
                ended.add(kind)
            print(f"{kind}: {rates[kind][-1]:.0f} MiB/s, {shown(some)}", file=sys.stderr)
    stop(server)
    for kind in ("large", "small"):
        what = f"first byte of a cold 64 KiB file while {statistics.median(rates[kind]):.0f} MiB/s of {kind} files are fetched ahead"
        what += " (it ended before)" if kind in ended else ""
        world.table.add(what, shown(latencies[kind]), f"idle {shown(latencies['idle'])}", parts(latencies[kind], latencies["idle"]))
    for kind in rules if sizes.older_node else ():
        older = latencies[f"older, {kind}"]
        what = f"first byte beside the older node ({kind})"
        world.table.add(what, shown(latencies[kind]), shown(older), parts(latencies[kind], older))
    shutil.rmtree(source)


def quantile(values, share):
    return sorted(values)[int((len(values) - 1) * share)]


def parts(ours, others):
    """Median and p99 of ours in parts of those of others."""
    return ", ".join(f"{quantile(ours, share) / quantile(others, share):.2f}" for share in (0.5, 0.99))


def shown(values):
    return f"median {quantile(values, 0.5):.2f}, p99 {quantile(values, 0.99):.2f} ms"


def measure(world, link, address, files):
    """One request after the other, with pauses as between the requests of people."""
    command = [link.program, "first-byte", "--address", address, "--prefix", "/b/snap/current/cold/"]
    return json.loads(bench.run([*command, "--files", files, "--size", CLIENT_FILE_BYTES])[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where imserver, imnode and fetch-bench are")
    parser.add_argument("--against", type=pathlib.Path, help="where an older imnode is")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--only", choices=["small", "clients"], help="one of the two parts")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    parser.add_argument("--rtt", type=float, default=0, help="milliseconds of a round trip to the master")
    parser.add_argument("--rate", type=int, default=0, help="Mbit/s of the line to the master")
    parser.add_argument("--volumes", action="store_true", help="a new file system for each round")
    parser.add_argument("--files", type=int, help="how many small files")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    arguments = parser.parse_args()
    if (arguments.rate or arguments.volumes) and INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    sizes, table, binaries = Sizes(arguments), bench.Table(), arguments.bin.resolve()
    link = Link(binaries / "fetch-bench", arguments.rtt, arguments.rate)
    with tempfile.TemporaryDirectory(prefix="instantmirror-fetch-", dir=arguments.dir) as place:
        world = bench.Bench(binaries, pathlib.Path(place), sizes, table)
        try:
            link.lay()
            if arguments.only != "clients":
                small_files(world, link, sizes)
            if arguments.only != "small":
                clients(world, link, sizes)
        finally:
            world.stop_all()
            link.cut()
            table.print()


if __name__ == "__main__":
    main()
