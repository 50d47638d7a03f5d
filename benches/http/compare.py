#!/usr/bin/env python3
"""Measures one build of the node beside another: CPU per request, new in parts of old.

    python3 benches/http/compare.py --bin target/release --against /tmp/old     all cases, some ten minutes
    python3 benches/http/compare.py --bin ... --against ... --only 4k,cold-20k
    python3 benches/http/compare.py --bin ... --against ... --quick             a smoke test

`--against` may be given several times; `NAME=DIR` gives a build a name. One master (of `--bin`) publishes the tree, and each
build has a node of its own on core 0; load and master share core 1. The builds are asked in turn, round by round, so that
what disturbs the machine disturbs them alike; what counts is the median over the rounds. CPU is user and system time of
the node's process. nginx stands beside as a limit: as a file server, and with proxy_cache in the cold case.
"""

import argparse
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile

import cases_warm
import load
import machine
import servers
import tree

NGINX = "nginx"
H2_REQUESTS = {"4k": 100_000, "64k": 20_000}
CONNECTIONS = 32


def on_load_core(command):
    command = ["taskset", "--cpu-list", str(machine.LOAD_CORE)] + [str(word) for word in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def cpu_of(server, command, requests, is_good):
    before = server.cpu()
    done = on_load_core(command)
    if done.returncode != 0 or not is_good(done.stdout):
        raise RuntimeError(f"{command} against {server.name}: {done.stdout}{done.stderr}")
    return (server.cpu() - before) / requests * 1e6


def warm(run):
    """A case of run.py, of whose figures the CPU counts here."""
    def measure(world, server):
        found = run(world, server)
        return found["cpu"] / found["requests"] * 1e6
    return measure


def http2(name):
    """h2load, 8 connections of 16 streams, over TLS."""
    def measure(world, server):
        count = max(H2_REQUESTS[name] // (10 if world.sizes.rounds == 1 else 1), 1000)
        url = f"https://127.0.0.1:{server.tls_port}{servers.PREFIX}/{name}"
        command = ["h2load", "-n", count, "-c", 8, "-m", 16, url]
        all_succeeded = re.compile(rf"\b{count} succeeded, 0 failed, 0 errored")
        return cpu_of(server, command, count, all_succeeded.search)
    return measure


def cold(world, server):
    """curl reads every small file once over 32 connections; nobody has read any of them before."""
    config = world.place / f"{server.port}.curl"
    urls = [f'url = "{server.url(path)}"\noutput = "/dev/null"' for path in world.many]
    config.write_text("\n".join(urls))
    command = ["curl", "-sSf", "--parallel", "--parallel-max", CONNECTIONS, "--config", config]
    return cpu_of(server, command, len(urls), lambda _: True)


WARM = {case.name: (case.title, warm(case.run)) for case in cases_warm.CASES if case.name != "1g"}
CASES = WARM | {
    "h2-4k": ("HTTP/2, 4 KiB", http2("4k")),
    "h2-64k": ("HTTP/2, 64 KiB", http2("64k")),
    "cold-20k": ("{many} cold files of 20 KiB, each once", cold),
}


class World:
    """The tree, its master, and a warm node for each build."""

    def __init__(self, builds, place, sizes):
        self.builds, self.place, self.sizes, self.made = builds, place, sizes, 0
        self.root = place / "root"
        folder = self.root / servers.PREFIX.strip("/")
        tree.build_warm(folder, sizes)
        self.many = [path for path in tree.warm_paths(sizes) if path.startswith("many/")]
        first = next(iter(builds.values()))
        self.master = servers.Master(first, place / "master", folder)
        self.warm, self.etags = {}, {}
        for name in builds:
            self.warm[name] = self.node(name)
        self.warm[NGINX] = servers.nginx_files(NGINX, place / "nginx", self.root, "on")
        for server in self.warm.values():
            self.etags[server.name] = cases_warm.World.warm(self, server)

    requests = cases_warm.World.requests

    def node(self, name):
        """A node of a build with an empty cache."""
        self.made += 1
        home = self.place / f"node-{self.made}"
        server = servers.node(self.builds[name], home, self.master.port, self.master.key, certified=True)
        server.name = name
        return server

    def fresh(self, name):
        if name != NGINX:
            return self.node(name)
        self.made += 1
        origin = servers.nginx_files("origin", self.place / f"origin-{self.made}", self.root, "on", machine.LOAD_CORE)
        return servers.nginx_cache(self.place / f"cache-{self.made}", origin.port)


def measure(world, case, run):
    """CPU per request of each server, in microseconds: the median over the rounds."""
    found = {name: [] for name in world.warm}
    for turn in range(world.sizes.rounds):
        names = list(found)[turn % len(found):] + list(found)[: turn % len(found)]
        for name in names:
            if case.startswith("h2-") and name == NGINX:
                continue
            if case.startswith("cold-"):
                server = world.fresh(name)
                found[name].append(run(world, server))
                server.stop()
            else:
                found[name].append(run(world, world.warm[name]))
    return {name: statistics.median(runs) for name, runs in found.items() if runs}


def named(text, default):
    name, _, folder = text.rpartition("=")
    return name or default, pathlib.Path(folder).resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="where imserver and imnode of the new build are")
    parser.add_argument("--against", required=True, action="append", help="where those of an older one are")
    parser.add_argument("--only", help=f"some of: {','.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--rounds", type=int, help="rounds of every case, instead of 5")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(CASES)
    if unknown := sorted(set(wanted) - set(CASES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    builds = dict([named(given.bin, "new")] + [named(text, f"old{i or ''}") for i, text in enumerate(given.against)])
    new, *others = builds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine.prepare()
    sizes = tree.Sizes(given.quick)
    sizes.huge_bytes = 64 * tree.MIB
    sizes.rounds = given.rounds or sizes.rounds
    try:
        with tempfile.TemporaryDirectory(prefix="instantmirror-bench-") as place:
            world = World(builds, pathlib.Path(place), sizes)
            header = [f"{name}, µs" for name in world.warm] + [f"{new} / {name}" for name in others]
            print("| case | " + " | ".join(header) + " |\n|---|" + "---|" * len(header), flush=True)
            for case in wanted:
                title, run = CASES[case]
                found = measure(world, case, run)
                title = title.format(many=sizes.many_files, huge=64, connections=sizes.many_connections)
                cells = [f"{found[name]:.1f}" if name in found else "" for name in world.warm]
                cells += [f"{found[new] / found[name]:.2f}" for name in others]
                print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
    finally:
        machine.stop_all()


if __name__ == "__main__":
    main()
