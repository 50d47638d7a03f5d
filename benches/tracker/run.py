#!/usr/bin/env python3
"""Measures imtracker: memory of a million peers, announces by UDP beside opentracker (apt package), on loopback.

    python3 benches/tracker/run.py [--rounds 3] [--seconds 8]

Builds the release programs, works in a temporary directory, stops what it started.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TORRENTS = 10_000


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def imtracker(folder, port):
    hashes = ", ".join('"' + f'{number:08x}' * 5 + '"' for number in range(TORRENTS))
    config = folder / "imtracker.toml"
    config.write_text(
        f'[torrents]\nallow = [{hashes}]\n[http]\nlisten = ["127.0.0.1:0"]\n[udp]\nlisten = ["127.0.0.1:{port}"]\n'
        f'[limits]\nrequests_per_minute = 4000000000\n[control]\nsocket = "{folder}/control.sock"\n[log]\nlevel = "error"\n'
    )
    return [ROOT / "target/release/imtracker", "--config", config, "run"]


def opentracker(folder, port):
    return ["opentracker", "-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", str(folder)]


def measure(command, load, port, seconds):
    tracker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        before = cpu_seconds(tracker.pid)
        said = subprocess.run(
            [load, "load", f"127.0.0.1:{port}", "--seconds", str(seconds), "--torrents", str(TORRENTS)],
            check=True, capture_output=True, timeout=seconds + 60,
        )
        result = json.loads(said.stdout)
        result["cpu_cores"] = (cpu_seconds(tracker.pid) - before) / seconds
        result["answers_per_cpu_s"] = result["answers_per_s"] / max(result["cpu_cores"], 1e-9)
        result["memory_mib"] = memory_mib(tracker.pid)
        return result
    finally:
        tracker.terminate()
        try:
            tracker.wait(10)
        except subprocess.TimeoutExpired:
            tracker.kill()
            tracker.wait()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=8)
    arguments = arguments.parse_args()
    subprocess.run(["cargo", "build", "--release", "-p", "imtracker", "-p", "tracker-load"], check=True, cwd=ROOT)
    load = ROOT / "target/release/tracker-load"
    print("memory", subprocess.run([load, "memory"], check=True, capture_output=True, text=True).stdout.strip())
    trackers = {"imtracker": imtracker}
    if shutil.which("opentracker"):
        trackers["opentracker"] = opentracker
    rounds = {name: [] for name in trackers}
    for number in range(arguments.rounds):
        order = list(trackers) if number % 2 == 0 else list(trackers)[::-1]
        for name in order:
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                folder.chmod(0o755)
                port = free_port()
                rounds[name].append(measure(trackers[name](folder, port), load, port, arguments.seconds))
    for name, results in rounds.items():
        keys = ["answers_per_s", "answers_per_cpu_s", "cpu_cores", "bytes_per_answer", "memory_mib", "lost"]
        print(name, {key: round(statistics.median(result[key] for result in results), 2) for key in keys})


if __name__ == "__main__":
    main()
