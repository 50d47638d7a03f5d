"""Processes on chosen cores: started pinned, stopped by their id, their CPU time read from /proc.

Never leaves anything running: whatever was started here is killed by `stop_all`, whatever happens.
"""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import time

SERVER_CORE, LOAD_CORE = 0, 1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
START_LIMIT_S = 60
STOP_LIMIT_S = 10

_started = []
_congestion_before = []


def prepare():
    """Room for a thousand connections, and the harness itself out of the server's way."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {LOAD_CORE})
    # The pacing of BBR is for links; on loopback it takes several times the CPU, of whoever is unlucky.
    _congestion_before.append(CONGESTION.read_text())
    CONGESTION.write_text("cubic")


def start(command, core, log, **options):
    """Starts a program on one core, in a process group of its own."""
    command = ["taskset", "--cpu-list", str(core)] + [str(word) for word in command]
    with open(log, "ab") as file:
        options = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file} | options
        child = subprocess.Popen(command, start_new_session=True, **options)
    _started.append(child)
    return child


def stop(child):
    """Asks a program and what it started to end, then makes them."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def stop_all():
    while _started:
        stop(_started.pop())
    while _congestion_before:
        CONGESTION.write_text(_congestion_before.pop())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, child, log):
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if child.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"{child.args} does not listen:\n{pathlib.Path(log).read_text()[-2000:]}")


def _stat(pid):
    """Parent, and user and system time in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def family(pid):
    """A process and all its descendants that live."""
    return _family(pid)[0]


def cpu_seconds(pid):
    """CPU time so far of a process and all its descendants that live."""
    members, times = _family(pid)
    return sum(times.get(member, 0) for member in members)


def _family(pid):
    parents, times = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)], times[int(entry)] = _stat(entry)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return members, times
