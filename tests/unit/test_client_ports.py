"""Several clients of one machine: each takes a port of its own, and a full machine says at once who has them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.local_machine import local_machine
from vboot.client.machine import connect
from vboot.client.ports import PortOpener, clients, order
from vboot.port_files import PORTS, lock_file, port_sockets
from vboot.protocol.errors import LinkLostError, MachineBusyError, RequestRefusedError
from vboot.protocol.messages import Hello

ALL = range(PORTS)


def soon() -> float:
    return time.monotonic() + 60


@contextmanager
def listening(first: Path, numbers: range | tuple[int, ...] = ALL) -> Iterator[list[socket.socket]]:
    """Sockets like those of QEMU, which nobody serves."""
    with ExitStack() as stack:
        listeners = []
        for number in numbers:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(port_sockets(first)[number]))
            listener.listen(1)
            listeners.append(listener)
        lock_file(first).touch()
        yield listeners


def taken(first: Path) -> list[int]:
    """The ports whose lock a client holds, by the name in it."""
    return [number for number, path in enumerate(port_sockets(first)) if lock_file(path).exists()]


def test_port_0_comes_last_and_takes_turns_with_the_others_while_none_answers() -> None:
    assert order(ALL) == (*range(1, 16), 0)
    assert order({0}) == (0,)
    assert order({0, 2, 5}) == (2, 5, 0)
    tried: list[int] = []
    for _ in range(6):
        tried.append(order({0, 1, 2, 3}, tried[-2:])[0])
    assert tried == [1, 0, 2, 0, 3, 0]
    assert order({0, 1, 2, 3}, [0, 3])[:2] == (0, 1)
    assert order({1, 2}, [1]) == (2, 1)


def test_sixteen_clients_have_a_port_each_and_the_next_one_is_told_who_they_are(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first):
        opener = PortOpener(first, "vboot shell")
        links = [opener(soon()) for _ in ALL]
        assert len(set(taken(first))) == PORTS
        names = clients(first)
        assert names == (f"vboot shell, pid {os.getpid()}",) * PORTS
        started = time.monotonic()
        with pytest.raises(MachineBusyError, match=rf"all 16 .*in use by vboot shell, pid {os.getpid()};") as caught:
            PortOpener(tmp_path, "vboot embed")(started + 1e6)
        assert caught.value.clients == names
        assert caught.value.code == 1017
        links.pop().close()
        PortOpener(first, "vboot embed")(soon()).close()
        for link in links:
            link.close()
        assert clients(first) == ()


def test_a_machine_with_one_port_says_who_has_it(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0,)):
        link = PortOpener(first, "vboot boot")(soon())
        with pytest.raises(MachineBusyError, match=rf"busy: in use by vboot boot, pid {os.getpid()}; end"):
            connect(first)
        link.close()
        PortOpener(first, "vboot embed")(soon()).close()


def test_a_socket_without_locks_is_connected_to_as_it_is(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0,)):
        lock_file(first).unlink()
        with suppress(BlockingIOError):
            links = [PortOpener(first, "test")(soon()) for _ in range(2)]
        assert [path.name for path in tmp_path.iterdir()] == ["evolution.sock"]
        for link in links:
            link.close()


def test_locks_without_a_machine_are_ignored_and_none_is_left_behind(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    lock_file(first).write_text("x")
    with pytest.raises(LinkLostError, match="no machine listens"):
        PortOpener(first, "test")(soon())
    with listening(first, (0,)):
        lock_file(first).write_bytes(b"\xff{[")  # what a killed client left
        link = PortOpener(first, "test")(soon())
        assert clients(first) == (f"test, pid {os.getpid()}",)
        lock_file(first).write_bytes(b"\xff{[")
        assert clients(first) == ("another program",)
        link.close()
    with pytest.raises(LinkLostError, match="no machine listens"):  # the socket of a killed machine
        PortOpener(first, "test")(soon())
    assert clients(first) == ()


def test_a_folder_that_is_not_writable_needs_no_lock(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0, 1)):
        lock_file(port_sockets(first)[1]).mkdir()  # cannot be opened for writing, by root either
        PortOpener(first, "test")(soon()).close()


def test_a_forked_process_keeps_no_lock(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0,)):
        link = PortOpener(first, "test")(soon())
        up, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b"!")
            signal.pause()
            os._exit(0)
        try:
            assert os.read(up, 1) == b"!"  # it has closed its copies
            assert clients(first) == (f"test, pid {os.getpid()}",)
            link.close()
            assert clients(first) == ()
        finally:
            os.close(up)
            os.close(told)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    program = (
        "import sys, time; from pathlib import Path; from vboot.client.ports import PortOpener\n"
        "link = PortOpener(Path(sys.argv[1]), 'doomed')(time.monotonic() + 60)\n"
        "print('up', flush=True); sys.stdin.read()"
    )
    with listening(first, (0,)):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdin is not None
        with child:
            assert child.stdout.readline() == b"up\n"
            assert clients(first) == (f"doomed, pid {child.pid}",)
            child.kill()
        assert clients(first) == ()


def test_a_port_that_a_program_without_locks_uses_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vboot.client.session._HELLO_AGAIN_SECONDS", 0.2)
    first = tmp_path / "evolution.sock"
    with local_machine(tmp_path), listening(tmp_path / "evolution.1.sock", (0,)), connect(tmp_path) as machine:
        assert machine.stats().state == "beating"
        assert clients(first) == (f"vboot.client, pid {os.getpid()}",)


def test_a_machine_without_a_free_connection_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "full"
    names = '["vboot shell, pid 4711", "vboot evolve, pid 4712"]'
    full = b'{"jsonrpc":"2.0","id":null,"error":{"code":1017,"message":"full","data":{"retry_ms":200,"clients":%b}}}\n'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        child = os.fork()
        if child == 0:
            while True:
                stream = listener.accept()[0]
                stream.sendall(full % names.encode())
                stream.close()
        try:
            with pytest.raises(MachineBusyError) as caught:
                connect(path, timeout=1e6)
            assert "in use by vboot shell, pid 4711; vboot evolve, pid 4712; end one" in str(caught.value)
            assert isinstance(caught.value, RequestRefusedError)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_the_machine_learns_who_its_client_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []

    def noting(self: object, ident: str, method: str, params: dict[str, object]) -> dict[str, object]:
        said.append(params.get("client"))
        return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}

    monkeypatch.setattr("vboot.client.session._request", lambda *words: noting(None, *words))
    with local_machine(tmp_path) as local, connect(local.socket, client="vboot embed") as machine:
        assert isinstance(machine.greeted, Hello)
    assert said[0] == f"vboot embed, pid {os.getpid()}"
