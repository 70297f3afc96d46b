"""What a session tries, for tests: takes attempts as arguments, tries all at once, prints what came
of each on a line of its own.

Runs inside network namespaces and containers, with nothing but a small Python.
"""

import socket
import sys
import threading

PATIENCE = 1.5  # seconds; on a bridge an answer takes less than a hundredth


def client_hello(name: str, *extensions: tuple[int, bytes]) -> bytes:
    """A TLS client's first message that asks for `name`."""
    listed = b"\0" + len(name).to_bytes(2, "big") + name.encode()
    pairs = [(0, len(listed).to_bytes(2, "big") + listed), *extensions] if name else list(extensions)
    packed = b"".join(kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body for kind, body in pairs)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(packed).to_bytes(2, "big") + packed
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def read_answer(answer: bytes) -> str:
    """`NXDOMAIN`, `REFUSED`, ... or the first address."""
    code = answer[3] & 15
    if code:
        return {2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(code, str(code))
    return socket.inet_ntoa(answer[-4:]) if answer[6:8] != b"\0\0" else "NODATA"


def attempt(kind: str, address: str, port: int, name: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if kind == "icmp":
        sixth = family == socket.AF_INET6
        with socket.socket(
            family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if sixth else socket.IPPROTO_ICMP
        ) as ping:
            ping.settimeout(PATIENCE)
            # The kernel knows the checksum of ICMPv6 (RFC 3542, 3.1).
            ping.sendto(b"\x80\0" + bytes(6) if sixth else b"\x08\0\xf7\xff\0\0\0\0", (address, 0))
            return "echo" if ping.recv(1000) else ""
    with socket.socket(family, socket.SOCK_DGRAM if kind in ("udp", "dns") else socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((address, port))
        if kind == "dns":
            sock.send(question(name))
            return read_answer(sock.recv(2000))
        if kind == "dns-tcp":
            asked = question(name)
            sock.sendall(len(asked).to_bytes(2, "big") + asked)
            return read_answer(sock.recv(2000)[2:])
        sock.sendall(client_hello(name) if kind == "tls" else b"hello")
        return sock.recv(1000).decode()


def main() -> None:
    attempts = [words.split(",") for words in sys.argv[1:]]
    results = [""] * len(attempts)

    def run(index: int) -> None:
        kind, address, port, name = attempts[index]
        try:
            results[index] = attempt(kind, address, int(port), name)
        except OSError as error:
            results[index] = f"- {error}"

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(attempts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(results))


if __name__ == "__main__":
    main()
