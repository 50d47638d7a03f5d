"""Figures as Markdown: ours beside the better nginx for warm content, beside every proxy for cold content."""

from cases_warm import NGINX_OFF, NGINX_ON, OURS

WARM_HEAD = (
    "| warm | requests/s | ratio | CPU µs/request | ratio | p50 ms | p99 ms | ratio | server core used | load core used |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
COLD_HEAD = (
    "| cold | server | first byte ms (median, max) | all s | origin sent | origin asked | server CPU s |\n"
    "|---|---|---|---|---|---|---|"
)


def better(servers, figure, pick):
    """nginx's better setting for one figure."""
    return pick(servers[NGINX_ON][figure], servers[NGINX_OFF][figure])


def warm_row(result):
    servers = result["servers"]
    ours = servers[OURS]
    rate, cpu = better(servers, "requests_per_s", max), better(servers, "cpu_us", min)
    p50, p99 = better(servers, "p50_us", min), better(servers, "p99_us", min)
    used, load = better(servers, "core_used", max), better(servers, "load_core_used", max)
    cells = [
        result["title"],
        f"{ours['requests_per_s']:,.1f} / {rate:,.1f}", f"{ours['requests_per_s'] / rate:.2f}",
        f"{ours['cpu_us']:,.1f} / {cpu:,.1f}", f"{ours['cpu_us'] / max(cpu, 1e-9):.2f}",
        f"{ours['p50_us'] / 1e3:.2f} / {p50 / 1e3:.2f}",
        f"{ours['p99_us'] / 1e3:.2f} / {p99 / 1e3:.2f}", f"{ours['p99_us'] / max(p99, 1e-9):.2f}",
        f"{ours['core_used']:.2f} / {used:.2f}", f"{ours['load_core_used']:.2f} / {load:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def warm(results):
    """Requests per second: more is better. CPU and latencies: less is better."""
    rows = [warm_row(result) for result in results]
    said = (
        "Ours / the better of nginx with tcp_nopush on and off, figure by figure. Where the load core is full and the "
        "server's is not, requests per second say what wrk can do: compare CPU per request then."
    )
    return "\n".join([said, "", WARM_HEAD] + rows)


def cold_rows(result):
    for name, one in result["servers"].items():
        cells = [
            result["title"] if name == OURS else "", name,
            f"{one['first_byte_s'] * 1e3:.1f}, {one['first_byte_max_s'] * 1e3:.1f}", f"{one['total_s']:.3f}",
            f"{one['origin_bytes'] / (1 << 20):.2f} MiB ({one['origin_share']:.2f} ×)",
            f"{one['origin_requests']:.0f}", f"{one['cpu_s']:.2f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def cold(results, sizes):
    line = sizes.cold_bytes / sizes.cold_rate
    rows = [row for result in results for row in cold_rows(result)]
    said = f"The capped line needs {line:.2f} s for {sizes.cold_bytes >> 20} MiB."
    return "\n".join([said, "", COLD_HEAD] + rows)


def crowd(found, sizes):
    head = (
        f"| 50 clean clients beside {sizes.idle_clients:,} idle and {sizes.slow_clients:,} slow ones | p99 alone ms | "
        "beside them ms | ratio | memory per connection of the crowd |\n|---|---|---|---|---|"
    )
    rows = [
        f"| {name} | {one['alone_us'] / 1e3:.2f} | {one['beside_us'] / 1e3:.2f} | {one['ratio']:.2f} | "
        f"{one['bytes_per_connection'] / 1024:.1f} KiB |"
        for name, one in found.items()
    ]
    return "\n".join([head] + rows)
