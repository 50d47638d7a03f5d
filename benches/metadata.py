#!/usr/bin/env python3
"""Measures what the check of repository metadata costs a publish, and prints a Markdown table.

    cargo build --release -p imserver
    python3 benches/metadata.py --bin target/release            some minutes, 2 GiB and 200,000 inodes
    python3 benches/metadata.py --bin target/release --quick    a smoke test; its figures mean nothing

Makes a yum repository and a Debian archive of 60,000 packages of 1 KiB each, whose metadata is as long as real metadata is,
and publishes small changes with `--changed`, each with the check and without it in turn. Everything is in one temporary
directory (`--dir` elsewhere).
"""

import argparse
import gzip
import hashlib
import lzma
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time

TEXT = "A package that tells of itself as much as real ones do, which is some lines of text without much repetition. "


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def package(number, generation=0):
    return hashlib.shake_128(f"{number} {generation}".encode()).digest(1024)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def yum(root, count):
    entries = []
    for number in range(count):
        content = package(number)
        href = f"Packages/{number % 100:02}/package-{number:06}-1.0-1.x86_64.rpm"
        write(root / href, content)
        files = "".join(f"<file>/usr/share/package-{number}/{name}</file>" for name in range(8))
        entries.append(
            f'<package type="rpm"><name>package-{number}</name><checksum type="sha256" pkgid="YES">{sha256(content)}'
            f"</checksum><description>{number} {TEXT * 6}</description>"
            f'<size package="{len(content)}" installed="9"/><location href="{href}"/><format>{files}</format></package>\n')
    primary(root, entries)
    return entries


def primary(root, entries):
    text = ('<metadata xmlns="c" xmlns:rpm="r">\n' + "".join(entries) + "</metadata>\n").encode()
    packed = gzip.compress(text, 6, mtime=0)
    write(root / "repodata/primary.xml.gz", packed)
    repomd = (f'<repomd xmlns="p"><data type="primary"><checksum type="sha256">{sha256(packed)}</checksum>'
              f'<open-checksum type="sha256">{sha256(text)}</open-checksum>'
              f'<location href="repodata/primary.xml.gz"/><size>{len(packed)}</size>'
              f"<open-size>{len(text)}</open-size></data></repomd>\n")
    write(root / "repodata/repomd.xml", repomd.encode())
    return len(text)


def debian(root, count):
    stanzas = []
    for number in range(count):
        content = package(number, 1)
        name = f"pool/main/{number % 100:02}/package-{number:06}_1.0_amd64.deb"
        write(root / name, content)
        stanzas.append(f"Package: package-{number}\nVersion: 1.0\nDescription: {number} {TEXT * 6}\nFilename: {name}\n"
                       f"Size: {len(content)}\nSHA256: {sha256(content)}\n\n")
    release(root, stanzas)
    return stanzas


def release(root, stanzas):
    text = "".join(stanzas).encode()
    forms = {"": text, ".gz": gzip.compress(text, 6, mtime=0), ".xz": lzma.compress(text, preset=1)}
    lines = []
    for end, content in forms.items():
        lines.append(f" {sha256(content)} {len(content)} main/binary-amd64/Packages{end}\n")
        if end:
            write(root / f"dists/stable/main/binary-amd64/Packages{end}", content)
    write(root / "dists/stable/Release", ("Origin: bench\nSHA256:\n" + "".join(lines)).encode())
    return len(text)


class Master:
    def __init__(self, program, directory, source):
        self.program, self.config = program, directory / "imserver.toml"
        self.config.write_text(f'[store]\ndir = "{directory}/store"\n[[repository]]\nname = "r"\nsource = "{source}"\n')
        subprocess.run([program, "--config", self.config, "init"], check=True, stdout=subprocess.DEVNULL)

    def publish(self, *arguments):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [self.program, "--config", self.config, "publish", "r", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(master, count, change):
    """Seconds with the check and without, in turn; `change(n)` returns the paths that it has changed."""
    figures = {True: [], False: []}
    for turn in range(count):
        for checked in (True, False):
            paths = change(2 * turn + checked)
            options = [] if checked else ["--no-check"]
            figures[checked].append(master.publish(*options, "--changed", *paths))
        # What was published unchecked is good, too: the next one compares with it.
        master.publish("--changed", *change(1000 + turn))
    return figures


def cell(figures):
    walls, cpus = zip(*figures)
    spread = f"[{min(walls):.3f} to {max(walls):.3f}]"
    return f"wall {statistics.median(walls):.3f} {spread} s, CPU {statistics.median(cpus):.3f} s"


def measure(program, place, kind, count, turns):
    source = place / kind
    entries = (yum if kind == "yum" else debian)(source, count)
    store = place / f"{kind}-master"
    store.mkdir()
    master = Master(program, store, source)
    first = master.publish()
    print(f"| {kind}: first publish of {count} packages, all checked | {cell([first])} | |")

    def apart(number):
        write(source / "readme", str(number).encode())
        return ["readme"]

    folder = "Packages" if kind == "yum" else "pool/main"

    def come(number):
        write(source / f"{folder}/new-{number}", b"new")
        return [f"{folder}/new-{number}"]

    def go(number):
        (source / f"{folder}/new-{number}").unlink()
        return [f"{folder}/new-{number}"]

    def rewrite(number):
        changed = list(entries)
        changed[0] = changed[0].replace("0 A package", f"{number} A package", 1)
        (primary if kind == "yum" else release)(source, changed)
        return ["repodata" if kind == "yum" else "dists"]

    for what, change in [("a file that no metadata names has changed", apart),
                         ("a package that no metadata names came", come),
                         ("a package that no metadata names went", go),
                         ("metadata was made anew", rewrite)]:
        figures = rounds(master, turns, change)
        print(f"| {kind}: {what} | {cell(figures[True])} | {cell(figures[False])} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("--dir", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    count, turns = (500, 1) if arguments.quick else (60_000, 5)
    program = (arguments.bin / "imserver").resolve()
    print("| publish | with the check | `--no-check` |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="im-metadata-", dir=arguments.dir) as place:
        for kind in ("yum", "debian"):
            measure(program, pathlib.Path(place), kind, count, turns)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"\nLargest process: {largest / 1024:.0f} MiB. {os.cpu_count()} processors.")


if __name__ == "__main__":
    main()
