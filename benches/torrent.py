#!/usr/bin/env python3
"""How long it takes to make a torrent of many small files: imserver from its digests, mktorrent and libtorrent by reading.

    benches/torrent.py [--files 30000] [--bytes 20000] [--piece 20] [--bin target/release] [--dir DIR]

Builds a tree of FILES files of BYTES bytes each, publishes it, and makes torrents with pieces of 2^PIECE bytes: ours and
libtorrent's with pad files, mktorrent's without (it cannot). Everything is in the page cache. Wants the Debian packages
mktorrent and python3-libtorrent."""

import argparse
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time

LIBTORRENT = """
import sys, libtorrent as lt
storage = lt.file_storage()
lt.add_files(storage, sys.argv[1])
made = lt.create_torrent(storage, int(sys.argv[4]), flags=lt.create_torrent.v1_only | lt.create_torrent.canonical_files)
lt.set_piece_hashes(made, sys.argv[2])
open(sys.argv[3], "wb").write(lt.bencode(made.generate()))
"""


def timed(name, command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode != 0:
        sys.exit(f"{name} failed: {done.stderr}")
    print(f"{name:<44} {seconds:7.1f} s  {cpu:7.1f} s CPU", flush=True)


def build(root, files, size):
    noise = random.Random(1)
    for number in range(files):
        folder = root / f"{number // 1000:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}").write_bytes(noise.randbytes(size))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--piece", type=int, default=20, help="the piece length is 2 to this power")
    parser.add_argument("--bin", default="target/release")
    parser.add_argument("--dir", default=None, help="where the tree and the store are made; a temporary directory")
    arguments = parser.parse_args()
    imserver = pathlib.Path(arguments.bin).resolve() / "imserver"
    with tempfile.TemporaryDirectory(dir=arguments.dir) as work:
        work = pathlib.Path(work)
        tree, config = work / "tree", work / "imserver.toml"
        build(tree, arguments.files, arguments.bytes)
        config.write_text(f'[store]\ndir = "{work}/store"\n[[repository]]\nname = "r"\nsource = "{tree}"\n'
                          f'piece_length = "{2 ** arguments.piece // 1024} KiB"\n')
        run = [imserver, "--config", config]
        subprocess.run([*run, "init"], check=True, stdout=subprocess.DEVNULL)
        timed("(imserver publish)", [*run, "publish", "r"])
        out = ["--beyond-limits", "--tracker", "udp://tracker.invalid:1", "--out"]
        timed("imserver torrent, pads", [*run, "torrent", "r", *out, work / "ours.torrent"])
        timed("imserver torrent --shards, pads", [*run, "torrent", "r", "--shards", "--out", work / "shards"])
        python = "/usr/bin/python3"
        timed("libtorrent, pads", [python, "-c", LIBTORRENT, tree, work, work / "libtorrent.torrent",
                                   2 ** arguments.piece])
        mktorrent = ["mktorrent", "-l", arguments.piece, "-t", os.cpu_count(), "-o", work / "mktorrent.torrent", tree]
        timed("mktorrent, no pads", mktorrent)


if __name__ == "__main__":
    main()
