#!/usr/bin/env python3
"""Measures a swarm of mirrors beside libtorrent and aria2, and prints a Markdown table.

    cargo build --release -p imserver -p imnode -p imtracker
    python3 benches/swarm/run.py --bin target/release --volumes  some ten minutes; root, for namespaces and file systems
    python3 benches/swarm/run.py --bin target/release --quick    a smoke test; its figures mean nothing

*Large*: one seeder whose upload is limited to 40 MiB/s and four who get 1 GiB from it, on loopback: the last one cannot have
it before the seeder has sent it once. *Small*: the same with 100,000 small files. *Many*: one and sixteen, each in a network
namespace with a line of its own (`tc tbf`). *Change*: mirrors that hold everything, and 1 % of the files replaced. What is
counted: seconds until the last one has everything, bytes that the seeder sent (by HTTP as well) as copies of the content, CPU and the
most anonymous memory of one who gets it. Place and processes as in benches/run.py.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE.parent / "run.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
bench.STEP_LIMIT_S = 900
MIB = 1 << 20
PYTHON = "/usr/bin/python3"


class Sizes:
    """How much is measured."""

    def __init__(self, quick):
        self.large_bytes = (32 if quick else 1024) * MIB
        self.small_files = 1_000 if quick else 100_000
        self.upload = 40 * MIB
        self.leechers = 4
        self.many = 4 if quick else 16
        self.many_bytes = (16 if quick else 128) * MIB
        self.many_line = 10 * MIB
        self.changed_files = 500 if quick else 20_000


class Watch:
    """The most anonymous memory of processes while they run."""

    def __init__(self, pids):
        self.pids, self.most, self.stop = pids, {}, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.stop.wait(0.05):
            for pid in self.pids:
                try:
                    text = pathlib.Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                kib = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")), 0)
                self.most[pid] = max(self.most.get(pid, 0), kib)

    def end(self):
        self.stop.set()
        self.thread.join()
        return max(self.most.values(), default=0) / 1024


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status(program, config):
    return json.loads(bench.run([program, "--config", config, "status", "--json"])[1])


class Lines:
    """Network namespaces on one bridge, each with a line of its own rate; gone at the end."""

    def __init__(self, count, rate):
        self.names = [f"imb{number}" for number in range(count)]
        self.made = []
        self.ip("link", "add", "imbench", "type", "bridge")
        self.ip("addr", "add", "10.88.0.254/24", "dev", "imbench")
        self.ip("link", "set", "imbench", "up")
        for number, name in enumerate(self.names):
            self.ip("netns", "add", name)
            self.made.append(name)
            self.ip("link", "add", f"{name}o", "type", "veth", "peer", "name", "eth0", "netns", name)
            self.ip("link", "set", f"{name}o", "master", "imbench", "up")
            inside = ["netns", "exec", name]
            self.ip(*inside, "ip", "addr", "add", f"10.88.0.{number + 1}/24", "dev", "eth0")
            self.ip(*inside, "ip", "link", "set", "eth0", "up")
            self.ip(*inside, "ip", "link", "set", "lo", "up")
            limit = ["root", "tbf", "rate", f"{rate * 8}bit", "burst", "256k", "latency", "100ms"]
            self.ip(*inside, "tc", "qdisc", "add", "dev", "eth0", *limit)
            subprocess.run(["tc", "qdisc", "add", "dev", f"{name}o", *limit], check=True)

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL)

    def address(self, number):
        return f"10.88.0.{number + 1}"

    def inside(self, number):
        return ["ip", "netns", "exec", self.names[number]]

    def close(self):
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", "imbench"], check=False)


class Ours:
    """A master and mirrors that fetch everything, all in one swarm before there is anything to fetch."""

    def __init__(self, world, name, source, leechers, upload=None, lines=None):
        self.world, self.lines = world, lines
        source.mkdir(parents=True, exist_ok=True)
        (source / "first").write_text("1")
        host = lines.address(0) if lines else "127.0.0.1"
        self.config, key = world.master(f"{name}-master", source)
        text = self.config.read_text().replace("127.0.0.1:0", f"{host}:0")
        limit = f'upload = "{upload} B/s"\n' if upload else ""
        self.config.write_text(f'[peers]\nlisten = ["{host}:0"]\n{limit}' + text)
        world.publish(self.config)
        inside = lines.inside(0) if lines else []
        self.server, address = world.daemon([*inside, world.imserver, "--config", self.config, "serve"], world.place / f"{name}.log")
        self.nodes = []
        for number in range(leechers):
            host = lines.address(number + 1) if lines else "127.0.0.1"
            config = world.node_config(f"{name}-node{number}", address, key, listen=f"{host}:0")
            config.write_text(f'[peers]\nlisten = ["{host}:0"]\n[preseed]\nrest = true\n' + config.read_text())
            inside = lines.inside(number + 1) if lines else []
            node, _ = world.daemon([*inside, world.imnode, "--config", config, "run"], config.parent / "log")
            self.nodes.append((node, config))
        self.wait(lambda said: len(self.peers(said)) >= min(leechers, 8))

    def peers(self, said):
        swarms = said["peers"]["swarms"]
        return swarms[0]["peers"] if swarms else []

    def wait(self, is_done):
        """Until all nodes are; returns when each of them was, in seconds from now."""
        began, left, took = time.monotonic(), list(self.nodes), []
        while left:
            for node in list(left):
                said = bench.node_status(node[1])
                if is_done(said):
                    took.append(time.monotonic() - began)
                    left.remove(node)
            if time.monotonic() - began > bench.STEP_LIMIT_S:
                raise RuntimeError(f"it takes too long: {json.dumps(said)[:2000]}")
            time.sleep(0.1)
        return took

    def publish(self, expected):
        """Publishes, and waits until all nodes hold so many bytes more; returns seconds, copies sent, CPU, MiB of memory."""
        held = [bench.node_status(config)["cache"]["used_bytes"] for _, config in self.nodes]
        before = [bench.cpu_of(node) for node, _ in self.nodes]
        sent = self.sent()
        self.world.publish(self.config)
        watch = Watch([node.pid for node, _ in self.nodes])
        goal = held[0] + expected
        took = self.wait(lambda said: said["cache"]["used_bytes"] >= goal)
        cpu = max(bench.cpu_of(node) - since for (node, _), since in zip(self.nodes, before))
        return max(took), (self.sent() - sent) / expected, cpu, watch.end()

    def sent(self):
        said = status(self.world.imserver, self.config)
        return said["http"]["body_bytes"] + sum(swarm["sent_bytes"] for swarm in said["peers"]["swarms"])

    def stop(self):
        for daemon in [self.server, *(node for node, _ in self.nodes)]:
            daemon.terminate()
            daemon.wait()


LIBTORRENT = """
import sys, time, libtorrent as lt
torrent, folder, port, limit, peers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:]
session = lt.session({"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "listen_interfaces": f"127.0.0.1:{port}", "allow_multiple_connections_per_ip": True,
    "enable_outgoing_utp": False, "enable_incoming_utp": False})
params = lt.add_torrent_params()
# A torrent of 100,000 files is larger than it reads unless told to.
limits = {"max_buffer_size": 100_000_000, "max_pieces": 1_000_000, "max_decode_tokens": 10_000_000}
params.ti, params.save_path = lt.torrent_info(torrent, limits), folder
if limit:
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)
if limit:
    handle.set_upload_limit(limit)
for peer in peers:
    handle.connect_peer(("127.0.0.1", int(peer)))
done = False
while True:
    state = handle.status()
    if state.is_seeding and not done and not limit:
        done = True
        print("done", flush=True)
    if limit:
        print(state.total_payload_upload, flush=True)
    time.sleep(0.1)
"""


def libtorrent(world, sizes, torrent, source, total):
    """The same with libtorrent: a process for each, connected by hand."""
    script = world.place / "client.py"
    script.write_text(LIBTORRENT)
    ports = [free_port() for _ in range(sizes.leechers + 1)]
    start = lambda folder, port, limit, peers: subprocess.Popen(
        [PYTHON, script, torrent, folder, str(port), str(limit), *map(str, peers)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
    seeder = start(source, ports[0], sizes.upload, [])
    world.daemons.append(seeder)
    last = {"sent": 0}
    threading.Thread(target=lambda: [last.update(sent=int(line)) for line in seeder.stdout], daemon=True).start()
    time.sleep(2)
    began, leechers = time.monotonic(), []
    for number in range(sizes.leechers):
        folder = world.place / f"lt{number}"
        folder.mkdir()
        leechers.append(start(folder, ports[number + 1], 0, ports[: number + 1]))
        world.daemons.append(leechers[-1])
    watch = Watch([leecher.pid for leecher in leechers])
    for leecher in leechers:
        if leecher.stdout.readline().strip() != "done":
            raise RuntimeError("libtorrent ended early")
    took = time.monotonic() - began
    cpu = max(bench.cpu_of(leecher) for leecher in leechers)
    time.sleep(0.3)
    result = took, last["sent"] / total, cpu, watch.end()
    for process in [seeder, *leechers]:
        process.kill()
        process.wait()
    for number in range(sizes.leechers):
        shutil.rmtree(world.place / f"lt{number}")
    return result


def aria2(world, sizes, torrent, source, total, imtracker):
    """The same with aria2, by a tracker."""
    port = free_port()
    config = world.place / "imtracker.toml"
    config.write_text(
        f'[torrents]\ndir = "{torrent.parent}"\n[http]\nlisten = ["127.0.0.1:{port}"]\n'
        f'[limits]\ninterval = "5 s"\nmin_interval = "5 s"\nrequests_per_minute = 100000\n[control]\nsocket = "{world.place}/tracker.sock"\n')
    tracker, _ = world.daemon([imtracker, "--config", config, "run"], world.place / "tracker.log")
    common = ["aria2c", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true",
              f"--bt-tracker=http://127.0.0.1:{port}/announce", "--bt-tracker-interval=5", "--seed-ratio=0.0", "--quiet",
              "--file-allocation=none", "--disable-ipv6", "--bt-max-peers=50", "--summary-interval=0"]
    log = world.place / "aria2.log"
    rpc = free_port()
    seeder = subprocess.Popen([*common, f"--max-upload-limit={sizes.upload}", f"--dir={source}", "--check-integrity=true",
                               "--enable-rpc", f"--rpc-listen-port={rpc}", str(torrent)])
    world.daemons.append(seeder)
    # It hashes what it seeds first.
    time.sleep(15)
    began, leechers = time.monotonic(), []
    for number in range(sizes.leechers):
        done = world.place / f"aria{number}.done"
        hook = world.place / f"hook{number}.sh"
        hook.write_text(f"#!/bin/sh\ntouch {done}\n")
        hook.chmod(0o755)
        leecher = subprocess.Popen([*common, f"--dir={world.place}/aria{number}", f"--on-bt-download-complete={hook}", str(torrent)])
        world.daemons.append(leecher)
        leechers.append((leecher, done))
    watch = Watch([leecher.pid for leecher, _ in leechers])
    while not all(done.exists() for _, done in leechers):
        if time.monotonic() - began > bench.STEP_LIMIT_S:
            raise RuntimeError("aria2 takes too long")
        time.sleep(0.05)
    took = time.monotonic() - began
    cpu = max(bench.cpu_of(leecher) for leecher, _ in leechers)
    import urllib.request
    body = json.dumps({"jsonrpc": "2.0", "id": "1", "method": "aria2.tellActive"}).encode()
    active = json.load(urllib.request.urlopen(f"http://127.0.0.1:{rpc}/jsonrpc", body, timeout=10))["result"]
    sent = sum(int(one["uploadLength"]) for one in active)
    result = took, sent / total, cpu, watch.end()
    for process in [seeder, tracker, *(leecher for leecher, _ in leechers)]:
        process.kill()
        process.wait()
    log.unlink(missing_ok=True)
    for number in range(sizes.leechers):
        shutil.rmtree(world.place / f"aria{number}")
    return result


def show(result):
    took, copies, cpu, memory = result
    return f"{took:.1f} s, {copies:.2f} copies, {cpu:.1f} CPU s, {memory:.0f} MiB"


def make_torrent(world, config, folder, *what):
    folder.mkdir()
    bench.run([world.imserver, "--config", config, "torrent", "b", *what, "--out", folder])
    return next(folder.glob("*.torrent"))


def large(world, sizes, imtracker):
    source = world.place / "large" / "b"
    ours = Ours(world, "large", source, sizes.leechers, sizes.upload)
    bench.write_noise(source / "image.iso", sizes.large_bytes, 5)
    result = ours.publish(sizes.large_bytes)
    ours.stop()
    # Of one file: aria2 does not seed padding that is not there as a file.
    torrent = make_torrent(world, ours.config, world.place / "torrents", "--path", "image.iso")
    total = sizes.large_bytes
    what = f"1 to {sizes.leechers}, {sizes.large_bytes // MIB} MiB, the seeder sends {sizes.upload // MIB} MiB/s (line: {sizes.large_bytes / sizes.upload:.1f} s)"
    theirs = libtorrent(world, sizes, torrent, source, total)
    world.table.add(what + ", beside libtorrent", show(result), show(theirs), f"{result[0] / theirs[0]:.2f}")
    aria = aria2(world, sizes, torrent, source, total, imtracker)
    world.table.add("the same beside aria2", "", show(aria), f"{result[0] / aria[0]:.2f}")


def small(world, sizes):
    source = world.place / "small" / "b"
    ours = Ours(world, "small", source, sizes.leechers, sizes.upload)
    generator, total = random.Random(11), 0
    for i in range(sizes.small_files):
        directory = source / f"d{i // 100:04}"
        if i % 100 == 0:
            directory.mkdir()
        content = generator.randbytes(generator.choice((200, 1_000, 3_000, 8_000, 18_000)))
        (directory / f"f{i:06}").write_bytes(content)
        total += len(content)
    result = ours.publish(total)
    ours.stop()
    print("small:", show(result), file=sys.stderr)
    what = f"1 to {sizes.leechers}, {sizes.small_files} files, {total // MIB} MiB, the seeder sends {sizes.upload // MIB} MiB/s (line: {total / sizes.upload:.1f} s)"
    torrent = make_torrent(world, ours.config, world.place / "small-torrents", "--beyond-limits")
    theirs = libtorrent(world, sizes, torrent, source.parent, total)
    world.table.add(what + ", beside libtorrent", show(result), show(theirs), f"{result[0] / theirs[0]:.2f}")
    shutil.rmtree(source.parent)


def change(world, sizes):
    source = world.place / "change" / "b"
    ours = Ours(world, "change", source, sizes.leechers)
    generator, total = random.Random(12), 0
    for i in range(sizes.changed_files):
        directory = source / f"d{i // 100:04}"
        if i % 100 == 0:
            directory.mkdir()
        (directory / f"f{i:06}").write_bytes(generator.randbytes(30_000))
        total += 30_000
    ours.publish(total)
    peers = lambda: sorted(peer["address"] for _, config in ours.nodes for peer in ours.peers(bench.node_status(config)))
    connected = peers()
    received = lambda: [bench.node_status(config)["fetch"]["bytes"] for _, config in ours.nodes]
    before, new = received(), 0
    for i in range(0, sizes.changed_files, 100):
        (source / f"d{i // 100:04}" / f"f{i:06}").write_bytes(generator.randbytes(30_000))
        new += 30_000
    took, copies, *_ = ours.publish(new)
    moved = max(after - since for after, since in zip(received(), before))
    same = "the same connections" if peers() == connected else "other connections"
    ours.stop()
    world.table.add(f"1 % of {sizes.changed_files} files replaced, {sizes.leechers} mirrors",
                    f"{took:.1f} s, {moved / total * 100:.2f} % of all bytes moved to a mirror, master sent {copies:.2f} copies, {same}")


def many(world, sizes):
    lines = Lines(sizes.many + 1, sizes.many_line)
    try:
        source = world.place / "many" / "b"
        ours = Ours(world, "many", source, sizes.many, lines=lines)
        bench.write_noise(source / "image.iso", sizes.many_bytes, 6)
        result = ours.publish(sizes.many_bytes)
        ours.stop()
    finally:
        lines.close()
    what = f"1 to {sizes.many} in namespaces, {sizes.many_bytes // MIB} MiB, lines of {sizes.many_line // MIB} MiB/s (line: {sizes.many_bytes / sizes.many_line:.1f} s)"
    world.table.add(what, show(result))


@contextlib.contextmanager
def working_place(arguments):
    """A temporary directory, on a new file system where that is asked for: one without a journal makes files more and more
    slowly after others were deleted, and that would be measured."""
    with tempfile.TemporaryDirectory(prefix="instantmirror-swarm-", dir=arguments.dir) as place:
        place = pathlib.Path(place)
        if not arguments.volumes:
            yield place
            return
        image, mounted = place / "volume.img", place / "volume"
        mounted.mkdir()
        with open(image, "wb") as file:
            file.truncate(24 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", mounted], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where imserver, imnode and imtracker are")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes")
    parser.add_argument("--only", choices=["large", "small", "change", "many"], help="one of the parts")
    parser.add_argument("--volumes", action="store_true", help="a new file system for each part; root, up to 24 GB")
    parser.add_argument("--files", type=int, help="how many small files, instead of 100,000")
    parser.add_argument("--leechers", type=int, help="how many get them and the large one, instead of four")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    arguments = parser.parse_args()
    sizes, table = Sizes(arguments.quick), bench.Table()
    sizes.small_files = arguments.files or sizes.small_files
    sizes.leechers = arguments.leechers or sizes.leechers
    parts = {
        "large": lambda world: large(world, sizes, arguments.bin.resolve() / "imtracker"),
        "small": lambda world: small(world, sizes),
        "change": lambda world: change(world, sizes),
        "many": lambda world: many(world, sizes),
    }
    try:
        for name, part in parts.items():
            if arguments.only not in (None, name):
                continue
            print(f"{name}...", file=sys.stderr, flush=True)
            with working_place(arguments) as place:
                world = bench.Bench(arguments.bin.resolve(), place, sizes, table)
                try:
                    part(world)
                finally:
                    world.stop_all()
    finally:
        table.print()


if __name__ == "__main__":
    main()
