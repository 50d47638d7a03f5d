#!/usr/bin/env python3
"""What pads behind small files cost in a torrent, and what they buy: the same tree with and without, by piece length.

    benches/torrent_pads.py [--files 10000] [--bytes 20000] [--changed 1] [--dir DIR]

Builds a tree of FILES files of about BYTES bytes and a torrent of it in each layout, with libtorrent: every file followed by a pad
up to its piece (as imserver does), or files packed one behind the other in order of their paths. Of each: pieces, bytes of zeros,
seconds that a client hashes until it knows that it has everything. Then CHANGED percent of the files get other bytes, and a torrent
of the new tree is checked against the old one, as by a client that has the last snapshot: how much of the new torrent it need not
fetch. Wants the Debian package python3-libtorrent."""

import argparse
import pathlib
import random
import sys
import tempfile
import time

try:
    import libtorrent as lt
except ImportError:
    sys.exit("python3-libtorrent is missing; run this with /usr/bin/python3")


def build(root, files, size, changed):
    """Files of half to one and a half times `size`; the same for the same numbers, except every so many."""
    noise = random.Random(1)
    for number in range(files):
        folder = root / f"{number // 500:03}"
        folder.mkdir(parents=True, exist_ok=True)
        length = noise.randrange(size // 2, size + size // 2)
        content = noise.randbytes(length)
        if changed and number % (100 // changed) == 7:
            content = content[::-1] + b"longer than before"
        (folder / f"{number:06}").write_bytes(content)


def make(root, piece, is_padded):
    storage = lt.file_storage()
    lt.add_files(storage, str(root))
    flags = lt.create_torrent.v1_only | (lt.create_torrent.canonical_files if is_padded else 0)
    made = lt.create_torrent(storage, piece, flags=flags)
    lt.set_piece_hashes(made, str(root.parent))
    return lt.torrent_info(lt.bdecode(lt.bencode(made.generate())))


def check(info, folder):
    """Seconds until a client that has this folder knows what it has of a torrent, and the share of pieces that is."""
    session = lt.session({"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
                          "listen_interfaces": "127.0.0.1:0", "checking_mem_usage": 1024})
    begun = time.monotonic()
    handle = session.add_torrent({"ti": info, "save_path": str(folder), "flags": lt.torrent_flags.upload_mode})
    while True:
        status = handle.status(0xFFFFFFFF)
        if str(status.state) not in ("checking_files", "checking_resume_data", "queued_for_checking"):
            break
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    return seconds, sum(status.pieces) / info.num_pieces()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--changed", type=int, default=1, help="percent of the files that the next snapshot changes")
    parser.add_argument("--dir", default=None, help="where the trees are made; a temporary directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as work:
        old, new = (pathlib.Path(work) / name / "tree" for name in ("old", "new"))
        build(old, arguments.files, arguments.bytes, 0)
        build(new, arguments.files, arguments.bytes, arguments.changed)
        print("piece     layout     pieces   zeros MB   info kB   check s   in the next snapshot's torrent already here")
        for piece in (1 << 20, 256 << 10, 64 << 10, 32 << 10):
            for is_padded in (True, False):
                info = make(old, piece, is_padded)
                files = info.files()
                pads = [n for n in range(files.num_files()) if files.file_flags(n) & lt.file_storage.flag_pad_file]
                zeros = sum(files.file_size(n) for n in pads)
                seconds, whole = check(info, old.parent)
                assert whole == 1, whole
                _, kept = check(make(new, piece, is_padded), old.parent)
                layout = "pads" if is_padded else "packed"
                print(f"{piece >> 10:5} KiB {layout:>8} {info.num_pieces():10} {zeros / 1e6:10.0f} "
                      f"{len(info.info_section()) / 1e3:9.0f} {seconds:9.1f} {100 * kept:8.1f} %", flush=True)


if __name__ == "__main__":
    main()
