"""A crowd in a process of its own: connections that do nothing, and connections that send a byte a second.

    python3 crowd.py PORT IDLE SLOW

Says "ready" when all are connected, and goes on until its standard input ends.
"""

import resource
import select
import socket
import sys
import time

import servers

REQUEST = f"GET {servers.PREFIX}/4k HTTP/1.1\r\nHost: b\r\n".encode()
LONG = REQUEST + b"X: " + b"x" * 100_000


def connect(port):
    return socket.create_connection(("127.0.0.1", port), 30)


def ask(connection):
    """One whole request, so that the connection is one that is kept."""
    connection.sendall(REQUEST + b"\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
    while len(body) < length:
        body += connection.recv(65536)


def main():
    port, idle, slow = (int(word) for word in sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kept = [connect(port) for _ in range(idle)]
    for connection in kept:
        ask(connection)
    dripping = [connect(port) for _ in range(slow)]
    print("ready", flush=True)
    sent = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.monotonic()
        # Some each tenth of a second, not all at once.
        for tenth in range(10):
            for number in range(tenth, slow, 10):
                try:
                    dripping[number].send(LONG[sent : sent + 1])
                except OSError:
                    # Cut, as it should be: the next one comes.
                    dripping[number].close()
                    dripping[number] = connect(port)
            time.sleep(max(0, begun + (tenth + 1) / 10 - time.monotonic()))
        sent += 1


if __name__ == "__main__":
    main()
