#!/usr/bin/env python3
"""Measures the HTTP server beside nginx, Squid and Varnish and prints Markdown tables.

    python3 benches/http/run.py --bin target/release             everything, about half an hour
    python3 benches/http/run.py --bin target/release --quick     a smoke test; its figures mean nothing
    python3 benches/http/run.py --bin target/release --only 4k,304,cold-tail

Needs root, two cores, nginx, wrk and, for the cold cases, squid and varnish. Everything happens on 127.0.0.1 in a
temporary directory (below --dir, which has to be on a real file system). The server under test has core 0 for itself;
load, origins and this program share core 1. What is printed is the median over interleaved rounds. CPU is user and
system time of the server's processes from /proc. Whatever is started is stopped at the end, whatever happens.
"""

import argparse
import json
import pathlib
import signal
import sys
import tempfile

import cases_cold
import cases_crowd
import cases_warm
import machine
import report
from tree import Sizes


def names():
    return [case.name for case in cases_warm.CASES] + [name for name, _, _ in cases_cold.CASES] + [cases_crowd.NAME]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where imserver and imnode are")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one round")
    parser.add_argument("--rounds", type=int, help="rounds of every case, instead of 5 warm and 3 cold ones")
    parser.add_argument("--only", help=f"some of: {','.join(names())}")
    parser.add_argument("--dir", type=pathlib.Path, help="where to work; otherwise the system's temporary directory")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else names()
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(names())}")
    return given, wanted


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def main():
    given, wanted = arguments()
    # Being told to stop ends everything in order, as a failure does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine.prepare()
    sizes, binaries = Sizes(given.quick), given.bin.resolve()
    if given.rounds:
        sizes.rounds = sizes.cold_rounds = given.rounds
    with tempfile.TemporaryDirectory(prefix="instantmirror-http-bench-", dir=given.dir) as folder:
        place = pathlib.Path(folder)
        # Squid and Varnish drop their privileges and have to reach their folders.
        place.chmod(0o755)
        try:
            warm = cases_warm.measure(binaries, place / "warm", sizes, wanted, say)
            cold = cases_cold.measure(binaries, place / "cold", sizes, wanted, say)
            crowd = cases_crowd.measure(binaries, place / "crowd", sizes, wanted, say)
        finally:
            machine.stop_all()
    if warm:
        print(report.warm(warm), end="\n\n")
    if cold:
        print(report.cold(cold, sizes), end="\n\n")
    if crowd:
        print(report.crowd(crowd, sizes))
    if given.json:
        given.json.write_text(json.dumps({"quick": given.quick, "warm": warm, "cold": cold, "crowd": crowd}, indent=1) + "\n")


if __name__ == "__main__":
    main()
