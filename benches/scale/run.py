#!/usr/bin/env python3
"""Measures the release binaries with millions of files and prints a Markdown table.

    cargo build --release -p imserver -p imnode -p catalog-scale
    python3 benches/scale/run.py --bin target/release            some minutes, some 8 GiB and 700,000 inodes
    python3 benches/scale/run.py --bin target/release --quick    a smoke test; its figures mean nothing

Two parts. The *catalog* part has no files: `catalog-scale` puts snapshots of 3,000,000 files in 60,000 directories (four
of them pools of 150,000 names) into the store of a real master, which a real node then follows. The *tree* part has
real files, 300,000 unless --files says otherwise, half of them in one pool directory. Ratios against rsync come from
rounds that are interleaved with it. Place, network and processes as in benches/run.py.
"""

import argparse
import http.client
import importlib.util
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE.parent / "run.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
bench.STEP_LIMIT_S = 1800
MIB = 1 << 20


class Sizes:
    """How much is measured."""

    def __init__(self, arguments):
        quick = arguments.quick
        self.files = 2_000 if quick else arguments.files
        self.pool_names = self.files // 2
        self.per_directory = 10 if quick else 50
        self.rounds = 1 if quick else 5
        self.large_files, self.large_mib = (2, 2) if quick else (16, 128)
        self.digest_mib = 8 if quick else 1024
        self.changed_directories = 20 if quick else 300
        self.snapshots = 5 if quick else arguments.snapshots
        self.shape = (20_000, 400, 1, 1_000) if quick else (3_000_000, 60_000, 4, 150_000)


class Maker:
    """`catalog-scale make`, step by step."""

    def __init__(self, program, config, sizes, paths):
        files, directories, pools, pool_names = sizes.shape
        options = {
            "--files": files, "--directories": directories, "--pools": pools, "--pool-names": pool_names,
            "--changed-directories": sizes.changed_directories, "--snapshots": sizes.snapshots, "--paths": paths,
        }
        words = [str(word) for option in options.items() for word in option]
        self.process = subprocess.Popen(
            [str(program), str(config), "make", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def result(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"catalog-scale ended with {self.process.wait()}")
        return json.loads(line)

    def next(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.result()


def wire(address, path):
    """Bytes and seconds of one answer."""
    connection = http.client.HTTPConnection(address, timeout=bench.STEP_LIMIT_S)
    started = time.monotonic()
    connection.request("GET", path)
    answer = connection.getresponse()
    size = 0
    while block := answer.read(MIB):
        size += len(block)
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    connection.close()
    return size, time.monotonic() - started


def wait_for_snapshot(address, snapshot):
    """When the node first shows this snapshot as current, by the monotonic clock."""
    connection = http.client.HTTPConnection(address, timeout=60)
    limit = time.monotonic() + bench.STEP_LIMIT_S
    while time.monotonic() < limit:
        try:
            connection.request("HEAD", "/b/snap/current/")
            answer = connection.getresponse()
            answer.read()
            if answer.getheader("instantmirror-snapshot") == snapshot:
                return time.monotonic()
        except (OSError, http.client.HTTPException):
            connection.close()
        time.sleep(0.002)
    raise RuntimeError(f"snapshot {snapshot} never appears")


def resident(daemon):
    """Resident memory in MiB, now: all of it, and without the pages of mapped files."""
    text = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    value = lambda key: int(next(line for line in text.splitlines() if line.startswith(key)).split()[1]) / 1024
    return value("VmRSS:"), value("RssAnon:"), value("VmHWM:")


def stop(*daemons):
    for daemon in daemons:
        daemon.terminate()
        daemon.wait(60)


def forget(folder):
    """Takes the files of a folder out of the page cache."""
    for file in folder.iterdir():
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def catalogs(world, program, sizes):
    """Snapshots of millions of files that are nowhere."""
    table, files = world.table, sizes.shape[0]
    empty = world.place / "empty"
    empty.mkdir()
    config, key = world.master("pure", empty)
    paths = world.place / "paths"
    maker = Maker(program, config, sizes, paths)
    try:
        base = maker.result()
        server, master = world.daemon([world.imserver, "--config", config, "serve"], world.place / "pure.log")
        full, seconds = wire(master, f"/.im/v1/b/catalog/{base['node']}")
        table.add(
            f"catalog of {base['files']} files: on disk, transferred in full",
            f"{base['disk'] / MIB:.0f} MiB, {full / MIB:.0f} MiB in {seconds:.1f} s "
            f"({base['disk'] / base['files']:.1f} and {full / base['files']:.1f} B a file)",
        )
        node_config = world.node_config("pure-node", master, key)
        started = time.monotonic()
        node, address = world.daemon([world.imnode, "--config", node_config, "run"], world.place / "pure-node.log")
        shown = wait_for_snapshot(address, base["snapshot"])
        table.add("node: from nothing to the whole catalog", f"{shown - started:.1f} s")

        renamed = bench.Renames(config.parent / "store/heads")
        delta = maker.next()
        shown = wait_for_snapshot(address, delta["snapshot"]) - renamed.last()
        renamed.close()
        size, _ = wire(master, f"/.im/v1/b/catalog/{delta['node']}?have={base['node']}")
        changed = sizes.changed_directories * 10
        table.add(
            f"{changed} changes in {sizes.changed_directories} directories",
            f"{delta['node_bytes'] / MIB:.1f} MiB of nodes built, delta {size / MIB:.2f} MiB; on the node {shown:.2f} s after the head",
        )
        starts(world, sizes, node, node_config, address, delta["snapshot"], files)
        stop(server)
        many = maker.next()
        growth = (many["disk"] - delta["disk"]) / many["snapshots"]
        table.add(
            f"{many['snapshots']} more snapshots with {changed} changes each",
            f"{growth / MIB:.2f} MiB on disk and {many['seconds'] / many['snapshots'] * 1000:.0f} ms each (building, closure check, sync)",
        )
        maker.process.stdin.close()
        maker.process.wait(60)
    finally:
        if maker.process.poll() is None:
            maker.process.kill()
            maker.process.wait()
    lookups(world, program, config, paths)
    world.table.add(
        f"counts of references of {many['snapshots'] + 2} snapshots", f"{many['references'] / MIB:.0f} MiB on the master's disk"
    )
    retention(world, config, sizes.snapshots + 1)


def starts(world, sizes, node, node_config, address, snapshot, files):
    """A restart with everything in place, and what the node holds after reading all over the catalog."""
    world_times = []
    node_config.write_text(node_config.read_text().replace("127.0.0.1:0", address))
    for _ in range(sizes.rounds):
        stop(node)
        started = time.monotonic()
        node, _ = world.daemon([world.imnode, "--config", node_config, "run"], world.place / "pure-node.log")
        world_times.append((wait_for_snapshot(address, snapshot) - started) * 1000)
    connection = http.client.HTTPConnection(address, timeout=60)
    for path in (world.place / "paths").read_text().splitlines()[:5000]:
        connection.request("GET", f"/b/snap/current/{path.split('/')[0]}/")
        connection.getresponse().read()
        connection.request("HEAD", f"/b/snap/current/{path.rpartition('/')[0]}/")
        connection.getresponse().read()
    total, own, peak = resident(node)
    stop(node)
    world.table.add(f"node with {files} files: start to first answer", f"{bench.span(world_times, '{:.0f}')} ms")
    world.table.add(
        f"node with {files} files: resident memory after 10,000 listings",
        f"{own:.0f} MiB of its own, {total:.0f} MiB with mapped catalog pages (peak {peak:.0f})",
    )


def lookups(world, program, config, paths):
    forget(config.parent / "store/catalog")
    said = json.loads(bench.run([program, config, "lookup", paths])[1])
    if said["found"] == 0:
        raise RuntimeError(f"no path was found: {said}")
    cold = said["cold_us"]
    world.table.add(
        "lookup of a path, the catalog not in the page cache",
        f"median {cold['median'] / 1000:.3f} ms, p90 {cold['p90'] / 1000:.3f} ms, p99 {cold['p99'] / 1000:.3f} ms",
    )
    world.table.add("lookup of a path, warm", f"{said['warm_us']:.1f} µs")


def retention(world, config, keep):
    """One snapshot of very many goes."""
    text = config.read_text()
    config.write_text(text + f'\n[retention]\nkeep_last = {keep}\ndelete_after = "0 s"\n[snapshots]\ngrace = "0 s"\n')
    cost, said = bench.run([world.imserver, "--config", config, "retention", "b"])
    world.table.add(f"retention: one of {keep + 1} snapshots goes", f"{cost.wall:.2f} s ({said.strip().splitlines()[-1]})")
    config.write_text(text)


def build_tree(folder, sizes):
    """Half of the files in one pool, the rest in small directories; names and sizes as packages' control files."""
    source = random.Random(3)
    pool = folder / "pool"
    pool.mkdir()
    for i in range(sizes.pool_names):
        (pool / f"lib{i:06}-{i % 977}_1.0-{i % 9}_amd64.deb").write_bytes(source.randbytes(60 + i % 80))
    for i in range((sizes.files - sizes.pool_names) // sizes.per_directory):
        directory = folder / f"part-{i % 50:02}" / f"package-{i:05}"
        directory.mkdir(parents=True)
        for j in range(sizes.per_directory):
            (directory / f"package-{i:05}_{j}.1-2_all.deb").write_bytes(source.randbytes(60 + j))


def tree(world, sizes):
    """A real tree."""
    table, source = world.table, world.place / "tree"
    source.mkdir()
    build_tree(source, sizes)
    config, key = world.master("real", source)
    time.sleep(2.5)
    first = world.publish(config)
    table.add(f"first publish, {sizes.files} files of 100 bytes", f"{first.wall:.1f} s, {sizes.files / first.wall:.0f} files/s")
    copy = world.place / "copy"
    bench.run(["rsync", "-a", f"{source}/", f"{copy}/"])
    world.publish(config)
    ours, rsync = [], []
    for _ in range(sizes.rounds):
        ours.append(world.publish(config))
        rsync.append(bench.run(["rsync", "-an", "--delete", f"{source}/", f"{copy}/"])[0])
    table.add(
        f"full rescan without changes, {sizes.files} files", bench.costs(ours),
        f"`rsync -an --delete` {bench.costs(rsync)}", bench.ratios(ours, rsync),
    )
    shutil.rmtree(copy)
    changes(world, sizes, config, key, source)


def first_import(world, program, sizes):
    """Large files that are in memory and are taken in by hard link: what an import costs beside the disk."""
    source = world.place / "large-tree"
    source.mkdir()
    data = random.Random(5).randbytes(MIB)
    for i in range(sizes.large_files):
        with open(source / f"image-{i}.iso", "wb") as file:
            for part in range(sizes.large_mib):
                file.write(data[part:] + data[:part] if i == 0 else data[part * i % MIB :] + data[: part * i % MIB])
    config, _ = world.master("large", source)
    config.write_text(config.read_text().replace("[[repository]]", '[[repository]]\nimport = "hardlink"', 1))
    alone = json.loads(bench.run([program, config, "digests", "--mib", sizes.digest_mib])[1])
    cost = world.publish(config)
    megabytes = sizes.large_files * sizes.large_mib * MIB / 1e6
    slowest = min(alone["sha256"], alone["sha1"], alone["blake3"])
    world.table.add(
        "one core: SHA-256, SHA-1, BLAKE3 alone; all in one pass",
        f"{alone['sha256']:.0f}, {alone['sha1']:.0f}, {alone['blake3']:.0f}; {alone['all']:.0f} MB/s",
        f"the slowest alone {slowest:.0f} MB/s",
        f"{slowest / alone['all']:.2f}",
    )
    world.table.add(
        f"first import of {megabytes:.0f} MB that are in memory, by hard link, all cores",
        f"{megabytes / cost.wall:.0f} MB/s ({megabytes / cost.cpu:.0f} MB per CPU second)",
        f"the slowest digest alone on one core {slowest:.0f} MB/s",
        f"{slowest / (megabytes / cost.wall):.2f}",
    )
    shutil.rmtree(source)


def changes(world, sizes, config, key, source):
    """3,000 changes in 300 directories, the pool one of them, published by name; and seen on a node."""
    server, master = world.daemon([world.imserver, "--config", config, "serve"], world.place / "real.log")
    node_config = world.node_config("real-node", master, key)
    node, address = world.daemon([world.imnode, "--config", node_config, "run"], world.place / "real-node.log")
    directories = sorted(path for path in source.glob("part-*/package-*"))
    renamed = bench.Renames(config.parent / "store/heads")
    publishes, waits = [], []
    for turn in range(sizes.rounds):
        chosen = [source / "pool", *directories[turn :: max(1, len(directories) // sizes.changed_directories)]]
        named = []
        for directory in chosen[: sizes.changed_directories]:
            for i in range(10):
                file = directory / f"new-{turn}-{i}.deb"
                file.write_text(f"{turn} {i} {directory}")
                named.append(str(file.relative_to(source)))
        marker = f"turn {turn}"
        (source / "marker").write_text(marker)
        listed = world.place / "changed"
        listed.write_text("\n".join([*named, "marker"]))
        seen = []
        poller = threading.Thread(target=bench.poll_until, args=(address, "/b/snap/current/marker", marker.encode(), seen))
        poller.start()
        publishes.append(bench.run([world.imserver, "--config", config, "publish", "b", "--changed-from", listed])[0])
        head = renamed.last()
        poller.join(bench.STEP_LIMIT_S)
        waits.append(seen[0] - head)
    renamed.close()
    stop(node, server)
    world.table.add(
        f"`publish --changed-from`, {len(named)} new files in {sizes.changed_directories} of {len(directories) + 1} directories, "
        f"one of them with {sizes.pool_names} names",
        bench.costs(publishes),
    )
    world.table.add("the same: from the head to `current` on the node answering with a new file", f"{bench.span(waits)} s")
    (source / "marker").write_text("alone")
    alone = bench.run([world.imserver, "--config", config, "publish", "b", "--changed", "marker"])[0]
    world.table.add(f"`publish --changed` of one file, {sizes.files} files in the tree", f"{alone.wall:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where imserver, imnode and catalog-scale are")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--files", type=int, default=300_000, help="files of the real tree")
    parser.add_argument("--snapshots", type=int, default=1000, help="snapshots with 0.1 %% change each")
    parser.add_argument("--only", choices=["catalogs", "tree"], help="one of the two parts")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    arguments = parser.parse_args()
    sizes, table, binaries = Sizes(arguments), bench.Table(), arguments.bin.resolve()
    with tempfile.TemporaryDirectory(prefix="instantmirror-scale-", dir=arguments.dir) as place:
        world = bench.Bench(binaries, pathlib.Path(place), sizes, table)
        try:
            if arguments.only != "tree":
                catalogs(world, binaries / "catalog-scale", sizes)
            if arguments.only != "catalogs":
                first_import(world, binaries / "catalog-scale", sizes)
                tree(world, sizes)
        finally:
            world.stop_all()
            table.print()


if __name__ == "__main__":
    main()
