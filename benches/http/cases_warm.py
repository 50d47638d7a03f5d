"""Cached content: our node beside nginx, with tcp_nopush on and off, each alone on the same core.

All three run all the time and are asked in turn, round by round, so that a noisy machine disturbs them alike. What
counts of nginx is its better setting, figure by figure.
"""

import http.client
import random
import statistics
import time

import load
import machine
import servers
import tree

OURS, NGINX_ON, NGINX_OFF = "imnode", "nginx, tcp_nopush on", "nginx, tcp_nopush off"
RANGE_BYTES = 64 << 10
RANGE_REQUESTS = 4096
PIPELINE_DEPTH = 16


class Case:
    """One kind of load. `run(world, server)` returns requests, seconds, cpu, load_cpu, p50_us and p99_us."""

    def __init__(self, name, title, run):
        self.name, self.title, self.run = name, title, run


class World:
    """The tree, and the three servers with all of it in their caches."""

    def __init__(self, binaries, place, sizes):
        self.place, self.sizes = place, sizes
        root = place / "root"
        folder = root / servers.PREFIX.strip("/")
        tree.build_warm(folder, sizes)
        master = servers.Master(binaries, place / "master", folder)
        self.servers = [
            servers.node(binaries, place / "node", master.port, master.key),
            servers.nginx_files(NGINX_ON, place / "nginx-on", root, "on"),
            servers.nginx_files(NGINX_OFF, place / "nginx-off", root, "off"),
        ]
        self.etags = {server.name: self.warm(server) for server in self.servers}

    def warm(self, server):
        """Reads every file once; returns the entity tag of the one that is asked for conditionally."""
        connection, tag = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300), None
        for path in tree.warm_paths(self.sizes):
            connection.request("GET", f"{servers.PREFIX}/{path}")
            answer = connection.getresponse()
            while answer.read(1 << 20):
                pass
            if answer.status != 200:
                raise RuntimeError(f"{server.name} answers {answer.status} for {path}")
            tag = tag or answer.headers["ETag"]
        connection.close()
        return tag

    def requests(self, name, texts):
        """A file of raw requests for wrk, made once."""
        file = self.place / f"{name}.requests"
        if not file.exists():
            file.write_text("\0".join(texts), newline="")
        return file


def get(path, lines=""):
    return f"GET {servers.PREFIX}/{path} HTTP/1.1\r\nHost: b\r\n{lines}\r\n"


def same_file(path, connections):
    return lambda world, server: load.wrk(server, path, connections, world.sizes.seconds)


def many_files(world, server):
    texts = [get(path) for path in tree.warm_paths(world.sizes) if path.startswith("many/")]
    random.Random(1).shuffle(texts)
    file = world.requests("many", texts)
    return load.wrk(server, "4k", 32, world.sizes.seconds, requests=file)


def random_ranges(world, server):
    source = random.Random(2)
    starts = [source.randrange(world.sizes.huge_bytes - RANGE_BYTES) for _ in range(RANGE_REQUESTS)]
    texts = [get("1g", f"Range: bytes={start}-{start + RANGE_BYTES - 1}\r\n") for start in starts]
    return load.wrk(server, "1g", 32, world.sizes.seconds, requests=world.requests("ranges", texts))


def not_modified(world, server):
    header = f"If-None-Match: {world.etags[server.name]}"
    return load.wrk(server, "4k", 32, world.sizes.seconds, header=header)


def many_connections(world, server):
    return load.wrk(server, "4k", world.sizes.many_connections, world.sizes.seconds)


def connection_per_request(world, server):
    return load.wrk(server, "4k", 32, world.sizes.seconds, header="Connection: close")


def pipelined(world, server):
    file = world.requests("pipeline", [get("4k") * PIPELINE_DEPTH])
    return load.wrk(server, "4k", 32, world.sizes.seconds, requests=file)


def huge_file(world, server):
    """One after the other: how long one takes is what a client waits."""
    plans = [load.Download(server, f"{servers.PREFIX}/1g") for _ in range(world.sizes.huge_downloads)]
    before, own, times = server.cpu(), time.process_time(), []
    for plan in plans:
        load.download([(plan, 0)])
        times.append(plan.ended - plan.started)
    return {
        "requests": len(times), "seconds": sum(times), "cpu": server.cpu() - before,
        "load_cpu": time.process_time() - own,
        "p50_us": statistics.median(times) * 1e6, "p99_us": max(times) * 1e6,
    }


CASES = [
    Case("4k", "4 KiB", same_file("4k", 32)),
    Case("64k", "64 KiB", same_file("64k", 32)),
    Case("1m", "1 MiB", same_file("1m", 32)),
    Case("1g", "{huge} MiB, one after the other", huge_file),
    Case("many", "{many} files of 20 KiB", many_files),
    Case("ranges", "64 KiB ranges at random offsets of {huge} MiB", random_ranges),
    Case("304", "304 by If-None-Match", not_modified),
    Case("connections", "4 KiB over {connections} connections", many_connections),
    Case("close", "4 KiB, a connection per request", connection_per_request),
    Case("pipeline", "4 KiB, pipelines of 16", pipelined),
]


def figures(runs):
    """Medians over the rounds of one server: requests per second, CPU per request, latencies."""
    median = lambda form: statistics.median(form(run) for run in runs)
    return {
        "requests_per_s": median(lambda run: run["requests"] / run["seconds"]),
        "cpu_us": median(lambda run: run["cpu"] / run["requests"] * 1e6),
        "p50_us": median(lambda run: run["p50_us"]),
        "p99_us": median(lambda run: run["p99_us"]),
        "core_used": median(lambda run: run["cpu"] / run["seconds"]),
        "load_core_used": median(lambda run: run["load_cpu"] / run["seconds"]),
    }


def measure(binaries, place, sizes, wanted, say):
    """Runs the wanted cases; returns for each its title and every server's figures."""
    cases = [case for case in CASES if case.name in wanted]
    if not cases:
        return []
    world, results = World(binaries, place, sizes), []
    for case in cases:
        runs = {server.name: [] for server in world.servers}
        for turn in range(sizes.rounds):
            # Who comes first changes with the rounds.
            order = world.servers[turn % 3:] + world.servers[: turn % 3]
            for server in order:
                runs[server.name].append(case.run(world, server))
                time.sleep(0.2)
        found = {name: figures(of_server) for name, of_server in runs.items()}
        title = case.title.format(
            huge=sizes.huge_bytes // tree.MIB, many=sizes.many_files, connections=sizes.many_connections
        )
        say(f"{title}: " + "; ".join(f"{name} {one['requests_per_s']:.0f}/s" for name, one in found.items()))
        results.append({"case": case.name, "title": title, "servers": found})
    machine.stop_all()
    return results
