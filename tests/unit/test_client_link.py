"""The socket to a machine: every call ends by its deadline, and the end of the machine is noticed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from vboot.client.link import SocketLink
from vboot.errors import InputError
from vboot.protocol.errors import LinkLostError, MachineTimeoutError


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


@contextmanager
def listening(path: Path, *, backlog: int = 1) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


@contextmanager
def connected(folder: Path) -> Iterator[tuple[SocketLink, socket.socket]]:
    with listening(folder / "s") as listener:
        link = SocketLink(folder / "s", soon())
        peer, _ = listener.accept()
        with peer:
            try:
                yield link, peer
            finally:
                link.close()


def test_bytes_go_both_ways(tmp_path: Path) -> None:
    with connected(tmp_path) as (link, peer):
        link.send(b"there", soon())
        assert peer.recv(100) == b"there"
        peer.sendall(b"and back")
        assert link.receive(soon()) == b"and back"


def test_a_deadline_that_has_passed_still_takes_what_is_there(tmp_path: Path) -> None:
    with connected(tmp_path) as (link, peer):
        assert link.receive(0.0) == b""
        peer.sendall(b"x")
        assert link.receive(0.0) == b"x"


def test_receiving_ends_at_the_deadline(tmp_path: Path) -> None:
    with connected(tmp_path) as (link, _):
        started = time.monotonic()
        assert link.receive(started + 0.1) == b""
        assert time.monotonic() - started > 0.09


def test_sending_to_one_who_does_not_read_ends_at_the_deadline(tmp_path: Path) -> None:
    expected = pytest.raises(MachineTimeoutError, match=r"accepted \d+ of 8388608 bytes")
    with connected(tmp_path) as (link, _), expected:
        link.send(bytes(8 << 20), soon(0.1))


def test_the_end_of_the_machine_is_noticed(tmp_path: Path) -> None:
    with connected(tmp_path) as (link, peer):
        peer.sendall(b"last words")
        peer.close()
        assert link.receive(soon()) == b"last words"
        with pytest.raises(LinkLostError, match="closed the connection"):
            link.receive(soon())
        with pytest.raises(LinkLostError):
            link.send(b"x", soon())


def test_a_closed_link_is_lost(tmp_path: Path) -> None:
    with connected(tmp_path) as (link, _):
        link.close()
        link.close()
        with pytest.raises(LinkLostError):
            link.receive(soon())
        with pytest.raises(LinkLostError):
            link.send(b"x", soon())


def test_connecting_without_a_listener_fails_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(LinkLostError, match="no machine listens at"):
        SocketLink(tmp_path / "nothing", soon())
    with listening(tmp_path / "s"):
        pass
    with pytest.raises(LinkLostError, match="no machine listens at"):
        SocketLink(tmp_path / "s", soon())
    assert time.monotonic() - started < 30, "the deadline is not waited for"


def test_a_queue_that_stays_full(tmp_path: Path) -> None:
    with listening(tmp_path / "s", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "s"))
        with pytest.raises(MachineTimeoutError, match="accepts no connection"):
            SocketLink(tmp_path / "s", soon(0.1))


def test_paths_that_cannot_be_sockets(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    # A file refuses a connection as a dead socket does.
    with pytest.raises(InputError, match="cannot connect to"):
        SocketLink(tmp_path / ("x" * 300), soon())
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "folder", tmp_path / ("x" * 200)):
        with pytest.raises(LinkLostError):
            SocketLink(path, soon())


def test_a_path_that_is_longer_than_a_socket_address(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 200)
    with listening(tmp_path / "s") as listener:
        (tmp_path / "s").rename(long)
        with closing(SocketLink(long, soon())) as link:
            link.send(b"hello", soon())
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(5) == b"hello"
