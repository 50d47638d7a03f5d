#!/usr/bin/env python3
"""Builds the test vectors from the text of catalog.md and head.md alone and compares them with the files here.

Shares no code with the implementation: BLAKE3 and Ed25519 are written out below, from their own specifications.
Run it without arguments; it prints what it checked and exits with 1 if anything differs.
"""

import base64
import hashlib
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent

# ---- BLAKE3 (hash mode), from the BLAKE3 paper ----

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(chaining, block, counter, length, flags):
    def rotate(x, n):
        return (x >> n | x << (32 - n)) & 0xFFFFFFFF

    message = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = [*chaining, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIXES):
            for word, (first, second) in ((message[2 * i], (16, 12)), (message[2 * i + 1], (8, 7))):
                v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
                v[d] = rotate(v[d] ^ v[a], first)
                v[c] = (v[c] + v[d]) & 0xFFFFFFFF
                v[b] = rotate(v[b] ^ v[c], second)
        message = [message[i] for i in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data):
    def subtree(data, counter, root):
        if len(data) <= 1024:
            chaining = IV
            blocks = [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
            for i, block in enumerate(blocks):
                last = i + 1 == len(blocks)
                flags = (CHUNK_START if i == 0 else 0) | ((CHUNK_END | root) if last else 0)
                chaining = compress(chaining, block, counter, len(block), flags)
            return struct.pack("<8I", *chaining)
        left = 1024
        while 2 * left < len(data):
            left *= 2
        block = subtree(data[:left], counter, 0) + subtree(data[left:], counter + left // 1024, 0)
        return struct.pack("<8I", *compress(IV, block, 0, 64, PARENT | root))

    return subtree(data, 0, ROOT)


# ---- Ed25519, from RFC 8032 ----

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(n, p):
    out = (0, 1, 1, 0)
    while n:
        if n & 1:
            out = add(out, p)
        p, n = add(p, p), n >> 1
    return out


def base_point():
    y = 4 * pow(5, P - 2, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    x = P - x if x & 1 else x
    return x, y, 1, x * y % P


def point_bytes(p):
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed25519(secret, message):
    """Public key and signature."""
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    base = base_point()
    public = point_bytes(multiply(scalar, base))
    nonce = int.from_bytes(hashlib.sha512(digest[32:] + message).digest(), "little") % ORDER
    commitment = point_bytes(multiply(nonce, base))
    challenge = int.from_bytes(hashlib.sha512(commitment + public + message).digest(), "little")
    return public, commitment + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


# ---- Catalog nodes, from catalog.md ----

def header(kind, level, count, names, targets, links):
    return b"IMC" + struct.pack("<BBBHHHHH", 1, kind, level, count, names, targets, links, 0)


def leaf(entries):
    """Entries: (name, kind, mode, mtime, id, size, extra, group); a symlink has its target as `extra`."""
    ids = sizes = mtimes = extras = ends = kinds = links = names = targets = b""
    for row, (name, kind, mode, mtime, ident, size, extra, group) in enumerate(entries):
        if kind == 3:
            target, extra = extra, len(targets)
            ident, size, targets = blake3(target), len(target), targets + target
        if group is not None:
            links += struct.pack("<HQ", row, group)
        ids += ident
        sizes += size.to_bytes(6, "little")
        mtimes += mtime.to_bytes(5, "little", signed=True)
        extras += extra.to_bytes(5, "little")
        names += name
        ends += struct.pack("<H", len(names))
        kinds += struct.pack("<H", kind << 12 | mode)
    head = header(0, 0, len(entries), len(names), len(targets), len(links) // 10)
    return head + ids + sizes + mtimes + extras + ends + kinds + links + names + targets


def index(level, children):
    """Children: (last name, id, entries, files, bytes)."""
    ids = sizes = files = entries = ends = names = b""
    for name, ident, count, file_count, byte_count in children:
        ids += ident
        sizes += byte_count.to_bytes(6, "little")
        files += file_count.to_bytes(5, "little")
        entries += count.to_bytes(5, "little")
        names += name
        ends += struct.pack("<H", len(names))
    return header(1, level, len(children), len(names), 0, 0) + ids + sizes + files + entries + ends + names


def border_bits(name):
    return int.from_bytes(blake3(name)[:8], "little")


def cut(rows, rows_max, lengths, has_borders, is_border):
    """Groups of rows: closed behind borders, and before what would make them too large."""
    groups, current = [], []
    for i, row in enumerate(rows):
        full = len(current) == rows_max or any(sum(length(r) for r in [*current, row]) > 65535 for length in lengths)
        if full:
            groups, current = [*groups, current], []
        current.append(row)
        if has_borders and i + 1 < len(rows) and is_border(row[0]):
            groups, current = [*groups, current], []
    return [*groups, current]


def directory(entries):
    """Id of the top node."""
    target_len = lambda entry: len(entry[6]) if entry[1] == 3 else 0
    name_len = lambda row: len(row[0])
    groups = cut(entries, 512, (name_len, target_len), len(entries) > 128, lambda name: border_bits(name) % 128 == 0)
    weight = {1: lambda e: (1, e[5]), 2: lambda e: (e[6], e[5]), 3: lambda e: (0, 0)}
    row = []
    for group in groups:
        files, size = (sum(part) for part in zip(*(weight[e[1]](e) for e in group))) if group else (0, 0)
        row.append((group[-1][0] if group else b"", blake3(leaf(group)), len(group), files, size))
    level = 0
    while len(row) > 1:
        level += 1
        shift = 7 + 5 * (level - 1)
        groups = cut(row, 128, (name_len,), level <= 8, lambda name: (border_bits(name) >> shift) % 32 == 0)
        row = [(g[-1][0], blake3(index(level, g)), *(sum(part) for part in zip(*(c[2:] for c in g)))) for g in groups]
    return row[0][1]


def a_file(name, content, group=None):
    first_piece = 7 if content else 0
    return name, 1, 0o644, 1_700_000_000, blake3(content), len(content), first_piece, group


def catalog_vectors():
    out = "# Test vectors of catalog.md. check.py makes them anew, from that text alone.\n"
    leaves = [
        [],
        [a_file(b"hello", b"hello\n"), (b"link", 3, 0o777, 0, None, None, b"hello", None)],
        [a_file(b"a", b"x", 0x0102030405060708), (b"sub", 2, 0o755, 0, blake3(b"node"), 1 << 40, 3, None)],
    ]
    for number, entries in enumerate(leaves):
        out += f"leaf {number}\nid {directory(entries).hex()}\nbytes {leaf(entries).hex()}\n"
    numbered = [a_file(f"package-{i:06}.rpm".encode(), i.to_bytes(8, "little")) for i in range(1000)]
    return out + f"numbered 1000\nid {directory(numbered).hex()}\n"


# ---- Head and record, from head.md ----

def head_vectors():
    secret = b"\1" * 32
    record = {
        "id": "01010101-0101-4101-8101-010101010101",
        "repository": "fedora",
        "created": "2023-11-14T22:13:20Z",
        "note": "first",
        "root": {"node": blake3(b"node").hex(), "mode": 0o755, "mtime": 1_700_000_000, "files": 3, "bytes": 1 << 40},
    }
    record_bytes = (json.dumps(record, indent=2) + "\n").encode()
    second = {
        "id": "02020202-0202-4202-8202-020202020202",
        "record": blake3(b"\2").hex(),
        "state": "staged",
        "release_at": "2023-11-15T22:13:20Z",
        "when_synced_percent": 80,
    }
    first = {
        "id": record["id"],
        "record": blake3(record_bytes).hex(),
        "state": "released",
        "released": "2023-11-14T22:13:20Z",
    }
    head = {
        "repository": "fedora",
        "sequence": 7,
        "issued": "2023-11-14T22:13:20Z",
        "expires": "2023-11-21T22:13:20Z",
        "piece_length": 1 << 20,
        "current": record["id"],
        "snapshots": [first, second],
        "tags": {"stable": record["id"]},
        "preseed": ["repodata/**"],
    }
    compact = lambda value: json.dumps(value, separators=(",", ":"))
    payload, kind = compact(head), "application/vnd.instantmirror.head.v1+json"
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} {payload}".encode()
    public, signature = ed25519(secret, message)
    envelope = {
        "payloadType": kind,
        "payload": base64.b64encode(payload.encode()).decode(),
        "signatures": [{"keyid": f"ed25519:{public.hex()}", "sig": base64.b64encode(signature).decode()}],
    }
    return (
        "# Test vectors of head.md. check.py makes them anew, from that text alone.\n"
        f"secret ed25519-secret:{secret.hex()}\npublic ed25519:{public.hex()}\n"
        f"record {first['record']} {len(record_bytes)} bytes\n{record_bytes.decode()}"
        f"payload\n{payload}\nenvelope\n{compact(envelope)}\n"
    )


def main():
    # Known answers of the two algorithms, so that an error here is told from one in the formats.
    assert blake3(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    rfc8032 = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519(rfc8032, b"")[0].hex().startswith("d75a980182b10ab7d54bfed3c964073a")
    wrong = 0
    for name, vectors in (("catalog.txt", catalog_vectors()), ("head.txt", head_vectors())):
        same = (HERE / name).read_text() == vectors
        wrong += not same
        print(f"{name}: {'as the text says' if same else 'DIFFERS; this is what the text says:'}")
        if not same:
            print(vectors)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
