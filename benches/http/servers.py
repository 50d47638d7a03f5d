"""The servers that are compared: ours, nginx as a file server, and the caching proxies in front of an origin.

Every server shows the same tree below the same path (PREFIX), so that all are asked with the same bytes. A server
works in a folder of its own and never looks at the machine's configuration.
"""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import time

import machine

PREFIX = "/pub/bench"
LOG_LINES = 20
CACHE_BYTES = 8 << 30


class Server:
    """A server while it runs: its name, its port and its process."""

    def __init__(self, name, home, core=machine.SERVER_CORE):
        self.name, self.home, self.core = name, home, core
        self.port, self.log = machine.free_port(), home / "log"
        home.mkdir(parents=True, exist_ok=True)
        self.child = None

    def launch(self, command, **options):
        self.child = machine.start(command, self.core, self.log, **options)
        machine.wait_for_port(self.port, self.child, self.log)
        return self

    def cpu(self):
        return machine.cpu_seconds(self.child.pid)

    def stop(self):
        machine.stop(self.child)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{PREFIX}/{path}"


def run(command, **options):
    """Runs a program to its end; returns what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Master(Server):
    """`imserver serve` with one published tree; the origin of our nodes, so it runs beside the load."""

    def __init__(self, binaries, home, tree):
        super().__init__("imserver", home, machine.LOAD_CORE)
        self.binary, self.config = binaries / "imserver", home / "imserver.toml"
        self.config.write_text(
            f'[store]\ndir = "{home}/store"\n[http]\nlisten = ["127.0.0.1:{self.port}"]\n[log]\nlevel = "warn"\n'
            f'[[repository]]\nname = "b"\nsource = "{tree}"\n'
        )
        said = run([self.binary, "--config", self.config, "init"])
        self.key = next(word for word in said.split('"') if word.startswith("ed25519:"))
        run([self.binary, "--config", self.config, "publish", "b"])
        self.launch([self.binary, "--config", self.config, "serve"])


def node(binaries, home, master_port, key, certified=False):
    """`imnode run`, once it shows the current snapshot. `master_port` may be that of a proxy. A certified one listens for TLS
    too, on its `tls_port`."""
    server = Server("imnode", home)
    config = home / "imnode.toml"
    tls = certify(server) if certified else ""
    config.write_text(
        f'[cache]\ndir = "{home}/cache"\nmax_size = "100 GiB"\n[http]\nlisten = ["127.0.0.1:{server.port}"]\n'
        f'max_connections = 19000\n{tls}[http.limits]\nidle_timeout = "300 s"\n'
        f'[log]\nlevel = "warn"\n[[repository]]\nname = "b"\nmaster = "http://127.0.0.1:{master_port}"\n'
        f'trust = ["{key}"]\nmounts = [{{ path = "{PREFIX}", view = "current" }}]\n'
    )
    server.launch([binaries / "imnode", "--config", config, "run"])
    limit = time.monotonic() + machine.START_LIMIT_S
    while status_of(server.port, f"{PREFIX}/") != 200:
        if time.monotonic() > limit:
            raise RuntimeError(f"imnode shows nothing; see {server.log}")
        time.sleep(0.01)
    return server


def certify(server):
    """Makes a certificate for a node; returns the section of its configuration."""
    key, certificate = server.home / "key.pem", server.home / "certificate.pem"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate])
    server.tls_port = machine.free_port()
    return f'[http.tls]\nlisten = ["127.0.0.1:{server.tls_port}"]\ncertificate = "{certificate}"\nkey = "{key}"\n'


def status_of(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("HEAD", path)
    status = connection.getresponse().status
    connection.close()
    return status


NGINX_COMMON = """daemon off;
worker_processes 1;
user root;
pid pid;
error_log log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
client_body_temp_path t_body; proxy_temp_path t_proxy; fastcgi_temp_path t_fcgi; uwsgi_temp_path t_uwsgi;
scgi_temp_path t_scgi;
access_log off;
sendfile on;
tcp_nopush {nopush};
keepalive_requests 1000000000;
keepalive_timeout 300;
{more}
}}
"""


def nginx(name, home, nopush, more, core=machine.SERVER_CORE):
    server = Server(name, home, core)
    config = home / "nginx.conf"
    config.write_text(NGINX_COMMON.format(nopush=nopush, more=more.replace("PORT", str(server.port))))
    return server.launch(["nginx", "-p", home, "-c", config, "-e", home / "log"])


def nginx_files(name, home, root, nopush, core=machine.SERVER_CORE):
    """nginx as a file server, as an operator who reads the manual sets it up."""
    more = f"open_file_cache max=20000 inactive=60s;\nserver {{ listen 127.0.0.1:PORT backlog=4096; root {root}; }}"
    return nginx(name, home, nopush, more, core)


def nginx_cache(home, origin_port):
    """nginx as a caching proxy: one fill per file, the others wait for it."""
    more = f"""proxy_cache_path cache levels=1:2 keys_zone=c:10m max_size=8g inactive=1h use_temp_path=off;
server {{ listen 127.0.0.1:PORT backlog=4096; location / {{
proxy_pass http://127.0.0.1:{origin_port}; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_cache c; proxy_cache_valid 200 206 1h; proxy_cache_lock on; proxy_cache_lock_timeout 300s;
proxy_cache_lock_age 300s; proxy_read_timeout 300s; proxy_max_temp_file_size 4096m; }} }}"""
    return nginx("nginx proxy_cache", home, "on", more)


def nginx_slice(home, origin_port):
    """nginx as a caching proxy that fetches and keeps slices of 1 MiB."""
    more = f"""proxy_cache_path cache levels=1:2 keys_zone=c:10m max_size=8g inactive=1h use_temp_path=off;
server {{ listen 127.0.0.1:PORT backlog=4096; location / {{
slice 1m; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;
proxy_pass http://127.0.0.1:{origin_port}; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_cache c; proxy_cache_valid 200 206 1h; proxy_cache_lock on; proxy_cache_lock_timeout 300s;
proxy_cache_lock_age 300s; proxy_read_timeout 300s; }} }}"""
    return nginx("nginx slice", home, "on", more)


def squid(home, origin_port):
    """Squid as an accelerator with a disk cache, clients of one file collapsed into one fetch."""
    server = Server("squid", home)
    config, cache = home / "squid.conf", home / "cache"
    cache.mkdir()
    # Squid will not be root: it drops to this user, who must reach the folder.
    for folder in (home, cache):
        shutil.chown(folder, "proxy", "proxy")
    server.log.touch()
    os.chmod(server.log, 0o666)
    config.write_text(
        f"http_port 127.0.0.1:{server.port} accel defaultsite=127.0.0.1 no-vhost\n"
        f"cache_peer 127.0.0.1 parent {origin_port} 0 no-query no-digest originserver name=origin\n"
        f"http_access allow all\ncache_dir ufs {cache} {CACHE_BYTES >> 20} 16 256\nmaximum_object_size 4 GB\n"
        f"cache_mem 64 MB\ncollapsed_forwarding on\nrefresh_pattern . 60 100% 60\naccess_log none\n"
        f"cache_log {home}/cache.log\npid_filename {home}/pid\ncoredump_dir {home}\npinger_enable off\n"
        f"netdb_filename none\nshutdown_lifetime 0 seconds\nvisible_hostname localhost\n"
    )
    run(["squid", "-N", "-z", "-f", config])
    return server.launch(["squid", "-N", "-f", config])


def varnish(home, origin_port):
    """Varnish with its cache in memory, streaming while it fetches."""
    server = Server("varnish", home)
    command = ["varnishd", "-F", "-j", "none", "-n", home / "work", "-a", f"127.0.0.1:{server.port}"]
    command += ["-b", f"127.0.0.1:{origin_port}", "-s", f"malloc,{CACHE_BYTES}", "-t", "3600"]
    return server.launch(command)


class CappedOrigin:
    """The capping proxy (origin.py) in front of an origin, as a process of its own."""

    def __init__(self, target_port, rate):
        script = pathlib.Path(__file__).with_name("origin.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = ["python3", script, str(target_port), str(rate)]
        self.child = machine.start(command, machine.LOAD_CORE, os.devnull, **pipes)
        self.port = self._ask()["port"]

    def counts(self):
        """Requests and bytes of answers since the last call of this."""
        print(file=self.child.stdin, flush=True)
        return self._ask()

    def _ask(self):
        return json.loads(self.child.stdout.readline())

    def stop(self):
        machine.stop(self.child)
        self.child.stdin.close()
        self.child.stdout.close()
