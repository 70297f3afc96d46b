"""The world outside, for attacks on egress: run in a network namespace that has the addresses below.

Every address answers on TCP and UDP ports 80, 443 and 7007 with what arrived where, and so does port 53 of
all but the name servers. What arrives is printed, a line each.
"""

import select
import socket
import ssl
import sys
import threading

NAMES = {
    "api.listed.example": "203.0.113.10",
    "listed.example": "203.0.113.10",
    "cdn.listed.example": "203.0.113.30",
    "tenant.other.example": "203.0.113.30",
    "unlisted.example": "203.0.113.20",
    "inward.listed.example": "169.254.169.254",
    "private.listed.example": "10.99.99.99",
}
SERVERS = ("203.0.113.10", "203.0.113.20", "203.0.113.30", "169.254.169.254", "10.99.99.99")
NAME_SERVERS = ("203.0.113.2", "203.0.113.53")  # the host's own, and somebody's
ENDPOINT, UNLISTED, CDN, METADATA, PRIVATE = SERVERS
HOST_RESOLVER, FOREIGN_RESOLVER = NAME_SERVERS
PORTS = (80, 443, 7007)
TLS_PORT = 8443


def say(*words: object) -> None:
    print(*words, flush=True)


def decoded(question: bytes) -> str:
    labels: list[str] = []
    position = 12
    while size := question[position]:
        labels.append(question[position + 1 : position + 1 + size].decode())
        position += 1 + size
    return ".".join(labels)


def answer(question: bytes) -> bytes:
    """An A record for a known name, else an empty answer."""
    end = 12 + len(decoded(question)) + 2 + 4
    address = NAMES.get(decoded(question).lower())
    known = address is not None and question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + bytes(4)
    record = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4" + socket.inet_aton(address or "0.0.0.0") if known else b""
    return head + question[12:end] + record


def serve_connection(connection: socket.socket, address: str, port: int) -> None:
    with connection:
        connection.settimeout(5)
        try:
            data = connection.recv(65536)
        except OSError:
            return
        say("tcp", address, port, len(data))
        if port == 53:
            reply = answer(data[2:])
            connection.sendall(len(reply).to_bytes(2, "big") + reply)
        else:
            connection.sendall(f"outside {address} {port}".encode())


def serve(address: str, port: int) -> None:
    tcp = socket.create_server((address, port))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, port))

    def run() -> None:
        while True:
            for ready in select.select([tcp, udp], [], [])[0]:
                if ready is tcp:
                    connection = tcp.accept()[0]
                    threading.Thread(
                        target=serve_connection, args=(connection, address, port), daemon=True
                    ).start()
                else:
                    data, peer = udp.recvfrom(65536)
                    if port == 53:
                        say("dns", address, decoded(data))
                        udp.sendto(answer(data), peer)
                    else:
                        say("udp", address, port)
                        udp.sendto(f"outside {address} {port}".encode(), peer)

    threading.Thread(target=run, daemon=True).start()


def serve_tls(address: str, certificate: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = context.wrap_socket(socket.create_server((address, TLS_PORT)), server_side=True)

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    threading.Thread(target=run, daemon=True).start()


if __name__ == "__main__":
    for each in SERVERS:
        for number in PORTS:
            serve(each, number)
    for each in NAME_SERVERS:
        serve(each, 53)
    if len(sys.argv) > 1:
        serve_tls("203.0.113.10", sys.argv[1])
    say("ready")
    sys.stdin.read()
