"""The files that are served, and how large they are in a full and in a quick run."""

import random

KIB, MIB = 1 << 10, 1 << 20
BLOCK_BYTES = 4 * MIB


class Sizes:
    """How much is measured."""

    def __init__(self, quick):
        self.rounds = 1 if quick else 5
        self.seconds = 1 if quick else 5
        self.huge_bytes = (64 if quick else 1024) * MIB
        self.huge_downloads = 2 if quick else 3
        self.many_files = 500 if quick else 10_000
        self.many_bytes = 20 * KIB
        self.many_connections = 200 if quick else 1_000
        self.idle_clients, self.slow_clients = (500, 100) if quick else (10_000, 2_000)
        self.cold_rounds = 1 if quick else 3
        self.cold_bytes = (16 if quick else 256) * MIB
        self.cold_huge_bytes = (64 if quick else 1024) * MIB
        self.cold_clients = 10 if quick else 50
        self.cold_rate = 40_000_000


def write_noise(path, size, seed):
    """A file that does not compress and is like no other: one block of noise over and over, each time numbered."""
    block = random.Random(seed).randbytes(min(size, BLOCK_BYTES))
    with open(path, "wb") as file:
        for number in range(0, size, BLOCK_BYTES):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece[: size - number])


def build_many(folder, sizes):
    """Small files, as packages are."""
    many = folder / "many"
    many.mkdir()
    for i in range(sizes.many_files):
        write_noise(many / many_name(i), sizes.many_bytes, 1000 + i)


def build_warm(folder, sizes):
    folder.mkdir(parents=True)
    for seed, (name, size) in enumerate((("4k", 4 * KIB), ("64k", 64 * KIB), ("1m", MIB), ("1g", sizes.huge_bytes))):
        write_noise(folder / name, size, seed)
    build_many(folder, sizes)


def many_name(i):
    return f"package-{i:05}_1.0-1_all.deb"


def warm_paths(sizes):
    """Every file of the warm tree."""
    return ["4k", "64k", "1m", "1g"] + [f"many/{many_name(i)}" for i in range(sizes.many_files)]


def build_cold(folder, sizes):
    folder.mkdir(parents=True)
    write_noise(folder / "image", sizes.cold_bytes, 1)
    write_noise(folder / "huge", sizes.cold_huge_bytes, 2)
    build_many(folder, sizes)
