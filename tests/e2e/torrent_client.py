"""libtorrent as a client of one torrent, without tracker, DHT, LSD and PEX: only web seeds are left.

    torrent_client.py FILE.torrent DIR [CHOSEN FILE]...

Downloads into DIR, all of it or the chosen files only (paths below the torrent's name), and prints the info-hash."""

import sys
import time

import libtorrent

LIMIT_SECONDS = 90


def main(torrent, directory, chosen):
    info = libtorrent.torrent_info(torrent)
    print(info.info_hash(), flush=True)
    session = libtorrent.session({
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "listen_interfaces": "127.0.0.1:0",
    })
    params = libtorrent.add_torrent_params()
    params.ti, params.save_path = info, directory
    params.flags |= libtorrent.torrent_flags.disable_pex
    handle = session.add_torrent(params)
    if chosen:
        files = info.files()
        paths = [files.file_path(i).split("/", 1)[-1] for i in range(files.num_files())]
        missing = set(chosen) - set(paths)
        assert not missing, missing
        handle.prioritize_files([4 if path in chosen else 0 for path in paths])
    end = time.monotonic() + LIMIT_SECONDS
    while not handle.status().is_finished:
        if time.monotonic() > end:
            sys.exit(f"not finished: {handle.status().progress:.0%}, {[str(a) for a in session.pop_alerts()]}")
        time.sleep(0.05)
    handle.flush_cache()
    session.remove_torrent(handle)
    del session


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
