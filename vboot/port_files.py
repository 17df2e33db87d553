"""The files through which clients reach a virtual machine: a socket for each evolution port, a lock for each socket.

A virtio-serial port serves one client at a time, so a machine has several. The socket of port 0 may have any name; the
others are named after it: `evolution.sock`, `evolution.1.sock`, `evolution.2.sock`. Beside a socket that serves one
client at a time stands its lock, `evolution.sock.lock`.
"""

from __future__ import annotations

from pathlib import Path

PORTS = 16
"""How many clients a virtual machine serves at once."""


def port_socket(first: Path, number: int) -> Path:
    """The socket of port `number` of the machine whose port 0 has the socket `first`."""
    return first if number == 0 else first.with_name(f"{first.stem}.{number}{first.suffix}")


def port_sockets(first: Path) -> tuple[Path, ...]:
    """The sockets of all ports, by number. Not all of them need exist."""
    return tuple(port_socket(first, number) for number in range(PORTS))


def lock_file(socket: Path) -> Path:
    """The lock of a socket. Who holds it is the socket's one client, and has written its name into the file."""
    return socket.with_name(socket.name + ".lock")
