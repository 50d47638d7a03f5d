"""Content that nobody has read yet: our node and four caching proxies, each before an origin of 40 MB/s.

Every run begins with a fresh, empty cache. The origin is capped and counted by a proxy (origin.py); ours is our
master, the others' is an nginx with the same files.
"""

import statistics
import time

import load
import machine
import servers
import tree

TAIL_BYTES = 64 << 10
MANY_CONNECTIONS = 32
# How long after the answer the origin is watched for bytes that nobody asked for.
SETTLE_S = 1.0
OURS = "imnode"


class World:
    """The tree and both origins, each behind a cap."""

    def __init__(self, binaries, place, sizes):
        self.binaries, self.place, self.sizes, self.made = binaries, place, sizes, 0
        root = place / "root"
        folder = root / servers.PREFIX.strip("/")
        tree.build_cold(folder, sizes)
        self.master = servers.Master(binaries, place / "master", folder)
        plain = servers.nginx_files("origin", place / "origin", root, "on", machine.LOAD_CORE)
        self.before_master = servers.CappedOrigin(self.master.port, sizes.cold_rate)
        self.before_plain = servers.CappedOrigin(plain.port, sizes.cold_rate)

    def fresh(self, kind):
        """A server with an empty cache, and its origin with nothing counted."""
        self.made += 1
        home = self.place / f"cold-{self.made}"
        if kind == OURS:
            origin = self.before_master
            server = servers.node(self.binaries, home, origin.port, self.master.key)
        else:
            origin = self.before_plain
            server = PROXIES[kind](home, origin.port)
        time.sleep(0.3)
        origin.counts()
        return server, origin


PROXIES = {
    "nginx proxy_cache": servers.nginx_cache,
    "nginx slice": servers.nginx_slice,
    "squid": servers.squid,
    "varnish": servers.varnish,
}
KINDS = [OURS] + list(PROXIES)

IMAGE, HUGE = f"{servers.PREFIX}/image", f"{servers.PREFIX}/huge"


def result(plans, server, before, origin, wanted_bytes):
    """What the clients saw and what the origin sent, in seconds and in parts of what had to be sent."""
    began = min(plan.started for plan in plans)
    cpu = server.cpu() - before
    time.sleep(SETTLE_S)
    sent = origin.counts()
    waits = [plan.first - plan.started for plan in plans]
    return {
        "first_byte_s": statistics.median(waits), "first_byte_max_s": max(waits),
        "total_s": max(plan.ended for plan in plans) - began, "cpu_s": cpu,
        "origin_bytes": sent["bytes"], "origin_requests": sent["requests"],
        "origin_share": sent["bytes"] / wanted_bytes,
    }


def clients(count):
    def run(world, server, origin):
        before = server.cpu()
        plans = [load.Download(server, IMAGE) for _ in range(count(world.sizes))]
        load.download([(plan, 0) for plan in plans])
        return result(plans, server, before, origin, world.sizes.cold_bytes)
    return run


def tail(world, server, origin):
    size, before = world.sizes.cold_huge_bytes, server.cpu()
    plan = load.Download(server, HUGE, f"Range: bytes={size - TAIL_BYTES}-{size - 1}\r\n")
    load.download([(plan, 0)])
    return result([plan], server, before, origin, TAIL_BYTES)


def late_joiner(world, server, origin):
    """The second client comes when the first has half; its own first byte is the one that counts."""
    size, before = world.sizes.cold_bytes, server.cpu()
    plans = [load.Download(server, IMAGE) for _ in range(2)]
    load.download([(plans[0], 0), (plans[1], size // 2)])
    found = result(plans, server, before, origin, size)
    late = plans[1]
    return found | {"first_byte_s": late.first - late.started, "first_byte_max_s": late.first - late.started}


def many(world, server, origin):
    """curl reads every small file once, over as many connections as a browser or a package manager of a large site."""
    paths = [f"many/{tree.many_name(i)}" for i in range(world.sizes.many_files)]
    config = world.place / "many.curl"
    config.write_text("\n".join(f'url = "{server.url(path)}"\noutput = "/dev/null"' for path in paths))
    command = ["curl", "-sSf", "-w", "%{time_starttransfer}\n", "--parallel", "--parallel-max", MANY_CONNECTIONS]
    before, began = server.cpu(), time.monotonic()
    said = servers.run(["taskset", "--cpu-list", machine.LOAD_CORE] + command + ["--config", config])
    total, cpu = time.monotonic() - began, server.cpu() - before
    sent, waits = origin.counts(), [float(line) for line in said.split()]
    return {
        "first_byte_s": statistics.median(waits), "first_byte_max_s": max(waits), "total_s": total, "cpu_s": cpu,
        "origin_bytes": sent["bytes"], "origin_requests": sent["requests"],
        "origin_share": sent["bytes"] / (len(paths) * world.sizes.many_bytes),
    }


# Name, title, and how it is run.
CASES = [
    ("cold-one", "one client, a cold {image} MiB", clients(lambda sizes: 1)),
    ("cold-crowd", "{clients} clients on one cold {image} MiB", clients(lambda sizes: sizes.cold_clients)),
    ("cold-tail", "the last 64 KiB of a cold {huge} MiB", tail),
    ("cold-late", "a second client at half of a cold {image} MiB", late_joiner),
    ("cold-20k", "{many} cold files of 20 KiB, each once, 32 connections", many),
]


def measure(binaries, place, sizes, wanted, say):
    """Runs the wanted cases; returns for each its title and every server's figures."""
    cases = [case for case in CASES if case[0] in wanted]
    if not cases:
        return []
    world, results = World(binaries, place, sizes), []
    for name, title, run in cases:
        title = title.format(
            image=sizes.cold_bytes // tree.MIB, huge=sizes.cold_huge_bytes // tree.MIB, clients=sizes.cold_clients,
            many=sizes.many_files,
        )
        runs = {kind: [] for kind in KINDS}
        for turn in range(sizes.cold_rounds):
            for kind in KINDS[turn % len(KINDS):] + KINDS[: turn % len(KINDS)]:
                server, origin = world.fresh(kind)
                runs[kind].append(run(world, server, origin))
                server.stop()
        found = {
            kind: {figure: statistics.median(one[figure] for one in of_kind) for figure in of_kind[0]}
            for kind, of_kind in runs.items()
        }
        say(f"{title}: " + "; ".join(f"{kind} {one['total_s']:.2f} s" for kind, one in found.items()))
        results.append({"case": name, "title": title, "servers": found})
    machine.stop_all()
    return results
