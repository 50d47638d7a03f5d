"""libtorrent as a peer among others, without DHT and LSD.

    swarm_client.py '{"torrent": FILE or "magnet": LINK, "dir": DIR, "address": ADDRESS, ...}'

Takes part in the swarm until it is stopped, and prints `finished` as soon as it has all it wants. Also understood: `peers`
(ADDRESS:PORT, connected to by hand), `chosen` (files, by their paths below the torrent's name), `lies` (seeds what lies in DIR
without looking at it, and without trackers if it has peers), `rate` (bytes per second that it takes at most)."""

import json
import signal
import sys

import libtorrent

PORT = 6881


def stop(*_):
    raise SystemExit


def settings(address, lies, rate):
    return {
        "download_rate_limit": rate,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # The peers of a test have TCP alone, and come and go quickly.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "min_reconnect_time": 1,
        "listen_interfaces": f"{address}:{PORT}",
        "outgoing_interfaces": address,
        "ssrf_mitigation": False,
        "disable_hash_checks": lies,
        "alert_mask": libtorrent.alert.category_t.all_categories,
    }


def main(options):
    signal.signal(signal.SIGTERM, stop)
    lies = options.get("lies", False)
    session = libtorrent.session(settings(options["address"], lies, options.get("rate", 0)))
    if "magnet" in options:
        params = libtorrent.parse_magnet_uri(options["magnet"])
    else:
        params = libtorrent.add_torrent_params()
        params.ti = libtorrent.torrent_info(options["torrent"])
    params.save_path = options["dir"]
    if lies:
        params.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    for peer in options.get("peers", []):
        address, port = peer.rsplit(":", 1)
        handle.connect_peer((address, int(port)))
    chosen = options.get("chosen")
    if chosen:
        files = params.ti.files()
        paths = [files.file_path(i).split("/", 1)[-1] for i in range(files.num_files())]
        missing = set(chosen) - set(paths)
        assert not missing, missing
        handle.prioritize_files([4 if path in chosen else 0 for path in paths])
    was_finished = False
    while True:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if type(alert).__name__ not in ("session_stats_alert", "block_finished_alert", "picker_log_alert"):
                print(type(alert).__name__, alert.message(), flush=True)
        if not was_finished and handle.status().is_finished:
            was_finished = True
            handle.flush_cache()
            print("finished", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
