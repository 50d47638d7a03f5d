#!/usr/bin/env python3
"""Measures the release binaries end to end and prints a Markdown table.

    python3 benches/run.py            the full sizes, some minutes
    python3 benches/run.py --quick    a smoke test of some seconds; its figures mean nothing

Everything happens on 127.0.0.1 in a temporary directory (below --dir, which has to be on a real file system: a tmpfs
measures another product). Rounds are interleaved with their peers, so that a noisy machine disturbs both alike; what
is printed is the median with the span in brackets. CPU is user and system time together. Whatever is started is stopped
by its process id at the end, whatever happens; no single step may take longer than STEP_LIMIT_S.
"""

import argparse
import ctypes
import http.client
import json
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEP_LIMIT_S = 300
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


class Sizes:
    """How much is measured."""

    def __init__(self, quick):
        self.small_files = 1_000 if quick else 50_000
        self.small_bytes = 10 << 10
        self.small_directories = 20 if quick else 500
        self.large_files = 2 if quick else 16
        self.large_bytes = (8 if quick else 128) * MIB
        self.cold_bytes = (16 if quick else 1024) * MIB
        self.rounds = 1 if quick else 4
        self.publishes = 3 if quick else 25
        self.starts = 1 if quick else 7


class Cost:
    """Wall and CPU seconds of one run."""

    def __init__(self, wall, cpu):
        self.wall, self.cpu = wall, cpu


class Table:
    """Rows of the result, printed at the end and mentioned as they come."""

    def __init__(self):
        self.rows = []

    def add(self, what, ours, peer="", ratio=""):
        self.rows.append((what, ours, peer, ratio))
        print(f"  {what}: {ours}  {peer}  {ratio}", file=sys.stderr)

    def print(self):
        print("| what | InstantMirror | peer | ratio (ours / peer, below 1 is better) |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")


def span(values, form="{:.2f}"):
    """The median, and the extremes in brackets."""
    show = lambda value: form.format(value)
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{show(min(values))} to {show(max(values))}]"


def ratios(ours, peers):
    """The median of the ratios round by round: noise that lasts longer than a round cancels out."""
    pairs = list(zip(ours, peers))
    wall = statistics.median(our.wall / peer.wall for our, peer in pairs)
    cpu = statistics.median(our.cpu / max(peer.cpu, 1e-9) for our, peer in pairs)
    return f"wall {wall:.2f}, CPU {cpu:.2f}"


def costs(runs):
    return f"wall {span([run.wall for run in runs])} s, CPU {span([run.cpu for run in runs])} s"


def run(command):
    """Runs a program to its end; it must succeed. CPU is that of the program and of what it waited for."""
    started = time.monotonic()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    timer = threading.Timer(STEP_LIMIT_S, child.kill)
    timer.start()
    try:
        output = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
    finally:
        timer.cancel()
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{command} ended with {child.returncode}: {output.decode()}")
    return Cost(wall, used.ru_utime + used.ru_stime), output.decode()


def write_noise(path, size, seed):
    """A file that does not compress and is like no other."""
    source = random.Random(seed)
    with open(path, "wb") as file:
        while size > 0:
            block = source.randbytes(min(size, 4 * MIB))
            file.write(block)
            size -= len(block)


def build_small(folder, sizes):
    """Many small files: 0.5 to 1.5 times the mean, in directories of the same length."""
    source = random.Random(1)
    per_directory = sizes.small_files // sizes.small_directories
    for i in range(sizes.small_directories):
        directory = folder / f"pool-{i % 26:02}" / f"package-{i:05}"
        directory.mkdir(parents=True)
        for j in range(per_directory):
            size = source.randrange(sizes.small_bytes // 2, sizes.small_bytes * 3 // 2)
            (directory / f"package-{i:05}_{j}.1-2_all.deb").write_bytes(source.randbytes(size))


def build_large(folder, sizes):
    """Few large files."""
    for i in range(sizes.large_files):
        write_noise(folder / f"image-{i:02}.iso", sizes.large_bytes, i)


def tree_bytes(folder):
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


class Bench:
    """The programs, the place, and what has to be stopped."""

    def __init__(self, binaries, place, sizes, table):
        self.imserver, self.imnode = binaries / "imserver", binaries / "imnode"
        self.place, self.sizes, self.table = place, sizes, table
        self.daemons = []

    def stop_all(self):
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

    def daemon(self, command, log):
        """Starts a daemon; returns it and the address that it prints."""
        daemon = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=open(log, "ab"), stdin=subprocess.DEVNULL
        )
        self.daemons.append(daemon)
        if not select.select([daemon.stdout], [], [], 30)[0]:
            raise RuntimeError(f"{command} prints no address; see {log}")
        line = daemon.stdout.readline().decode()
        return daemon, line.split("http://")[1].strip().rstrip("/")

    def master(self, name, source):
        """A fresh master of one repository `b`."""
        home = self.place / name
        home.mkdir()
        config = home / "imserver.toml"
        config.write_text(
            f'[store]\ndir = "{home}/store"\n[http]\nlisten = ["127.0.0.1:0"]\n[log]\nlevel = "warn"\n'
            f'[[repository]]\nname = "b"\nsource = "{source}"\n'
        )
        _, said = run([self.imserver, "--config", config, "init"])
        key = next(word for word in said.split('"') if word.startswith("ed25519:"))
        return config, key

    def node_config(self, name, master, key, listen="127.0.0.1:0"):
        home = self.place / name
        home.mkdir(exist_ok=True)
        config = home / "imnode.toml"
        config.write_text(
            f'[cache]\ndir = "{home}/cache"\nmax_size = "100 GiB"\n[http]\nlisten = ["{listen}"]\n[log]\nlevel = "warn"\n'
            f'[[repository]]\nname = "b"\nmaster = "http://{master}"\ntrust = ["{key}"]\n'
        )
        return config

    def publish(self, config):
        return run([self.imserver, "--config", config, "publish", "b"])[0]

    def first_publish(self, name, source, files):
        """First snapshots beside rsync into an empty directory, and rsync made as durable as a publish is."""
        ours, rsync, durable = [], [], []
        total = tree_bytes(source)
        for i in range(self.sizes.rounds):
            for leftover in ("master", "copy"):
                shutil.rmtree(self.place / leftover, ignore_errors=True)
            config, _ = self.master("master", source)
            copy = self.place / "copy"
            copy.mkdir()

            def publish():
                ours.append(self.publish(config))

            def copy_tree():
                plain = run(["rsync", "-a", f"{source}/", f"{copy}/"])[0]
                flush = run(["sync", "-f", copy])[0]
                rsync.append(plain)
                durable.append(Cost(plain.wall + flush.wall, plain.cpu + flush.cpu))

            # Each begins with nothing waiting to be written, and each is the first one every other time: who comes
            # second finds other pages free (on a virtual machine, ones that the host may still have to provide).
            for step in (publish, copy_tree) if i % 2 == 0 else (copy_tree, publish):
                os.sync()
                step()
        wall = statistics.median(cost.wall for cost in ours)
        rate = f"; {total / MIB / wall:.0f} MiB/s, {files / wall:.0f} files/s"
        self.table.add(f"first publish, {name}", costs(ours) + rate, f"`rsync -a` {costs(rsync)}", ratios(ours, rsync))
        self.table.add("the same, rsync's copy synced as ours is", "", f"and `sync -f` {costs(durable)}", ratios(ours, durable))
        return config

    def publish_again(self, name, config, source):
        """Nothing has changed: beside a dry run of rsync against its own copy."""
        time.sleep(2.5)
        self.publish(config)
        ours, rsync = [], []
        for _ in range(self.sizes.rounds * 3):
            ours.append(self.publish(config))
            rsync.append(run(["rsync", "-an", "--delete", f"{source}/", f"{self.place}/copy/"])[0])
        self.table.add(f"publish without changes, {name}", costs(ours), f"`rsync -an --delete` {costs(rsync)}", ratios(ours, rsync))

    def catalog(self, config, address, files):
        shown = json.loads(run([self.imserver, "--config", config, "snapshot", "show", "b", "--json"])[1])
        connection = http.client.HTTPConnection(address, timeout=STEP_LIMIT_S)
        connection.request("GET", f"/.im/v1/b/catalog/{shown['root']['node']}")
        answer = connection.getresponse()
        wire = len(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"catalog: {answer.status}")
        connection.close()
        disk = sum(file.stat().st_size for file in (config.parent / "store/catalog").iterdir() if file.is_file())
        self.table.add("catalog per file", f"{disk / files:.1f} B on disk, {wire / files:.1f} B on the wire (zstd)")

    def visible(self, config, source, address):
        """From the rename of the head at the end of a publish to the first right answer of the node."""
        renamed = Renames(config.parent / "store/heads")
        waits, publishes = [], []
        for i in range(self.sizes.publishes):
            text = f"publish {i}"
            (source / "changed").write_text(text)
            seen = []
            poller = threading.Thread(target=poll_until, args=(address, "/b/snap/current/changed", text.encode(), seen))
            poller.start()
            publishes.append(self.publish(config))
            head_at = renamed.last()
            poller.join(STEP_LIMIT_S)
            waits.append((seen[0] - head_at) * 1000)
        self.table.add(
            f"head renamed to `current` answering with the new file, {len(waits)} publishes",
            f"median {statistics.median(waits):.1f} ms, max {max(waits):.1f} ms",
        )
        self.table.add("publish of one changed file in that tree", costs(publishes))
        renamed.close()

    def cold(self, config, source, key):
        """A large file nobody has read: through the node, again from its cache, and straight from the master; CPU is
        that of curl and both daemons."""
        for i in range(self.sizes.rounds):
            write_noise(source / f"cold-{i}", self.sizes.cold_bytes, 1000 + i)
        self.publish(config)
        server, master = self.daemon([self.imserver, "--config", config, "serve"], self.place / "serve.log")
        node_config = self.node_config("node", master, key)
        node, address = self.daemon([self.imnode, "--config", node_config, "run"], self.place / "node.log")
        poll_until(address, "/b/snap/current/cold-0", None, [])
        kinds = {"cold": [], "warm": [], "master": [], "file": []}
        for i in range(self.sizes.rounds):
            path = f"/b/snap/current/cold-{i}"
            for kind, host in (("cold", address), ("master", master), ("warm", address), ("file", master)):
                target = self.place / "fetched" if kind == "file" else pathlib.Path(os.devnull)
                before = cpu_of(server) + cpu_of(node)
                first, total, own = self.curl(f"http://{host}{path}", target)
                kinds[kind].append((first, total, own + cpu_of(server) + cpu_of(node) - before))
            (self.place / "fetched").unlink()
        column = lambda kind, at: [run[at] for run in kinds[kind]]
        show = lambda kind: (
            f"first byte {span([first * 1000 for first in column(kind, 0)], '{:.1f}')} ms, "
            f"all {span(column(kind, 1))} s, CPU {span(column(kind, 2))} s"
        )
        name = f"{self.sizes.cold_bytes // MIB} MiB file through the node"
        for kind, peer, said in (
            ("cold", "master", "`curl` from the master, thrown away"),
            ("cold", "file", "`curl` from the master into a file"),
            ("warm", "master", "`curl` from the master, thrown away"),
        ):
            pairs = list(zip(kinds[kind], kinds[peer]))
            ratio = [statistics.median(our[at] / theirs[at] for our, theirs in pairs) for at in (1, 2)]
            self.table.add(f"{name}, {kind}", show(kind), f"{said}: {show(peer)}", "wall {:.2f}, CPU {:.2f}".format(*ratio))
        return server, node, node_config, address

    def curl(self, url, target):
        """Fetches a file; returns seconds to the first byte, to the last, and of curl's own CPU."""
        form = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}"
        cost, said = run(["curl", "--silent", "--noproxy", "*", "--output", target, "--write-out", form, url])
        status, size, first, total = said.split()
        if status != "200" or int(float(size)) != self.sizes.cold_bytes:
            raise RuntimeError(f"{url}: {said}")
        return float(first), float(total), cost.cpu

    def starts(self, node, config, address):
        """From exec to the first whole answer, with everything in place."""
        config.write_text(config.read_text().replace("127.0.0.1:0", address))
        times, content = [], None
        for _ in range(self.sizes.starts):
            node.send_signal(signal.SIGTERM)
            node.wait(30)
            started, seen = time.monotonic(), []
            poller = threading.Thread(target=poll_until, args=(address, "/b/snap/current/changed", content, seen))
            poller.start()
            node, _ = self.daemon([self.imnode, "--config", config, "run"], self.place / "node.log")
            poller.join(STEP_LIMIT_S)
            times.append((seen[0] - started) * 1000)
        self.table.add("node: start to first answer", f"{span(times, '{:.0f}')} ms")


class Renames:
    """Tells when a file was last renamed into a directory (inotify), by the monotonic clock."""

    IN_MOVED_TO = 0x80

    def __init__(self, directory):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        if libc.inotify_add_watch(self.descriptor, os.fsencode(directory), self.IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), str(directory))
        self.at, self.read_one = None, threading.Event()
        self.closed = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not self.closed.is_set():
            if select.select([self.descriptor], [], [], 0.2)[0]:
                self.at = time.monotonic()
                os.read(self.descriptor, 4096)
                self.read_one.set()

    def last(self):
        """The last rename; waits for one that has not been told of yet."""
        if not self.read_one.wait(STEP_LIMIT_S):
            raise RuntimeError("no head was renamed")
        self.read_one.clear()
        return self.at

    def close(self):
        self.closed.set()


def poll_until(address, path, content, seen):
    """Asks every millisecond until the answer is 200 with this content (HEAD and any content if it is None)."""
    connection, limit = http.client.HTTPConnection(address, timeout=10), time.monotonic() + STEP_LIMIT_S
    while time.monotonic() < limit:
        try:
            connection.request("HEAD" if content is None else "GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200 and content in (None, body):
                seen.append(time.monotonic())
                break
        except OSError:
            connection.close()
        except http.client.HTTPException:
            connection.close()
        time.sleep(0.001)
    connection.close()


def cpu_of(daemon):
    fields = pathlib.Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def node_status(config):
    """The page behind `imnode status`: a process for each look at it would take a core of those that are measured."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(config.parent / "cache/control.sock"))
        control.sendall(b"GET /.im/status HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: control.recv(1 << 16), b""))
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


def peak_mib(daemon):
    status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measure(bench):
    sizes, table = bench.sizes, bench.table
    large = bench.place / "large"
    large.mkdir()
    build_large(large, sizes)
    time.sleep(2.5)
    name = f"{sizes.large_files} files of {sizes.large_bytes // MIB} MiB"
    bench.first_publish(name, large, sizes.large_files)
    shutil.rmtree(large)

    small = bench.place / "small"
    small.mkdir()
    build_small(small, sizes)
    time.sleep(2.5)
    name = f"{sizes.small_files} files of {sizes.small_bytes >> 10} KiB"
    config = bench.first_publish(name, small, sizes.small_files)
    bench.publish_again(name, config, small)

    (small / "changed").write_text("")
    bench.publish(config)
    key = run([bench.imserver, "--config", config, "init"])[1].split('trust = ["')[1].split('"')[0]
    server, master = bench.daemon([bench.imserver, "--config", config, "serve"], bench.place / "serve.log")
    node_config = bench.node_config("node", master, key)
    node, address = bench.daemon([bench.imnode, "--config", node_config, "run"], bench.place / "node.log")
    poll_until(address, "/b/snap/current/changed", None, [])
    bench.catalog(config, master, sizes.small_files)
    bench.visible(config, small, address)
    for daemon in (node, server):
        daemon.terminate()
        daemon.wait(30)

    server, node, node_config, address = bench.cold(config, small, key)
    peaks = f"imserver {peak_mib(server):.0f} MiB, imnode {peak_mib(node):.0f} MiB"
    table.add("peak memory (VmHWM) after serving the large files", peaks)
    bench.starts(node, node_config, address)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--bin", type=pathlib.Path, help="where imserver and imnode are; otherwise they are built")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    arguments = parser.parse_args()
    binaries = arguments.bin
    if binaries is None:
        subprocess.run(["cargo", "build", "--release", "-p", "imserver", "-p", "imnode"], cwd=ROOT, check=True)
        binaries = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    table = Table()
    with tempfile.TemporaryDirectory(prefix="instantmirror-bench-", dir=arguments.dir) as place:
        bench = Bench(binaries.resolve(), pathlib.Path(place), Sizes(arguments.quick), table)
        try:
            measure(bench)
        finally:
            bench.stop_all()
            table.print()


if __name__ == "__main__":
    main()
