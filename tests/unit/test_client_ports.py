"""Several clients of one machine: each takes a port of its own, and a full machine says at once who has them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

import pytest

from tests.support.local_machine import local_machine
from tests.support.scripted_peer import HELLO, Peer
from vboot.client.machine import connect
from vboot.client.ports import PortOpener, clients, order
from vboot.client.requests import Request
from vboot.client.session import Session
from vboot.port_files import PORTS, lock_file, port_sockets
from vboot.protocol.errors import LinkLostError, MachineBusyError, MachineTimeoutError, RequestRefusedError
from vboot.protocol.framing import Message
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


def taken_now(first: Path) -> int:
    """The one port whose lock is held."""
    (number,) = [number for number, path in enumerate(port_sockets(first)) if clients_of(path)]
    return number


def clients_of(port: Path) -> bool:
    try:
        with lock_file(port).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


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


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits patiently for a port before the others were tried waits for ever."""
    monkeypatch.setattr("vboot.client.session._HELLO_AGAIN_SECONDS", 1e6)
    monkeypatch.setattr("vboot.client.ports._PATIENT_SECONDS", 1e6, raising=False)


@pytest.mark.parametrize("served", [3, 15])
@pytest.mark.usefixtures("no_patience")
def test_ports_that_programs_without_locks_use_are_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: int
) -> None:
    monkeypatch.setattr("vboot.client.ports._MOMENT_SECONDS", 0.05, raising=False)
    first = tmp_path / "run" / "evolution.sock"
    first.parent.mkdir()
    with local_machine(tmp_path) as local, listening(first, range(served)):
        port_sockets(first)[served].symlink_to(local.socket)
        with connect(first.parent, timeout=20) as machine:
            assert machine.stats().state == "beating"
            assert lock_file(port_sockets(first)[served]).exists()
            assert clients(first) == (f"vboot.client, pid {os.getpid()}",)


@pytest.mark.usefixtures("no_patience")
def test_an_old_guest_that_serves_port_0_alone_is_found_at_once(tmp_path: Path) -> None:
    with local_machine(tmp_path), ExitStack() as stack:
        for number in range(1, 16):
            stack.enter_context(listening(port_sockets(tmp_path / "evolution.sock")[number], (0,)))
        lock_file(tmp_path / "evolution.sock").touch()
        with connect(tmp_path, timeout=20) as machine:
            assert machine.stats().state == "beating"


def test_each_port_is_given_a_moment_before_any_is_given_more(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first) as listeners:
        for listener in listeners:
            listener.listen(16)
        opener = PortOpener(first, "test")
        tried, limits = [], []
        for _ in range(PORTS + 6):
            link = opener(soon())
            tried.append(taken_now(first))
            limits.append(opener.silence())
            link.close()
    assert sorted(tried[:PORTS]) == list(ALL)
    assert tried[:3] == [1, 0, 2]
    assert tried[PORTS:] == [0, 1, 0, 2, 0, 3]
    assert len(set(limits[:PORTS])) == 1
    assert (limits[0] or 0) < (limits[PORTS] or 0) < (limits[-1] or 0)


def test_a_port_that_greets_is_not_given_up() -> None:
    hellos: list[Message] = []

    def late(peer: Peer, message: Message) -> None:
        hellos.append(message)
        if len(hellos) == 4:
            peer.reply(message, dict(HELLO))

    peers = []

    def opened(_deadline: float) -> Peer:
        peers.append(Peer({"hello": late}))
        return peers[-1]

    session = Session(opened, client="test", silence=lambda: 0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vboot.client.session._HELLO_AGAIN_SECONDS", 0.01)
        session.establish(soon())
    assert (len(peers), len(hellos)) == (1, 4)


def fill(path: Path) -> list[socket.socket]:
    """Connect until the queue of connections is full."""
    streams = []
    with suppress(BlockingIOError):
        while True:
            stream = socket.socket(socket.AF_UNIX)
            streams.append(stream)
            stream.setblocking(False)
            stream.connect(str(path))
    return streams


def test_a_port_with_a_full_queue_is_passed_by(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0, 1, 2)), ExitStack() as stack:
        streams = [fill(port_sockets(first)[1])]
        link = PortOpener(first, "test")(soon())
        assert taken_now(first) == 2
        streams.append(fill(first))
        with pytest.raises(MachineBusyError, match=r"in use by test, pid \d+; programs that take no lock \(such as"):
            PortOpener(first, "other")(soon())
        link.close()
        for stream in chain(*streams):
            stack.enter_context(stream)


def test_a_machine_that_answers_nowhere_is_told_with_who_uses_its_ports(tmp_path: Path) -> None:
    first = tmp_path / "evolution.sock"
    with listening(first, (0, 1)):
        link = PortOpener(first, "vboot shell")(soon())
        with pytest.raises(MachineTimeoutError) as caught:
            connect(first, timeout=0.05)
        link.close()
    assert (
        f"does not answer hello; of its ports, 1 in use by vboot shell, pid {os.getpid()}; 1 silent"
        in caught.value.what
    )
    assert "programs that take no lock (such as socat)" in caught.value.what


def test_a_busy_machine_names_three_clients_and_counts_the_others() -> None:
    error = MachineBusyError(tuple(f"vboot shell, pid {number}" for number in range(16)))
    names = "vboot shell, pid 0; vboot shell, pid 1; vboot shell, pid 2 and 13 more; end one"
    assert f"all 16 of its connections are taken, in use by {names}" in str(error)


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
    members = Request.members

    def noting(request: Request) -> dict[str, object]:
        said.append(request.params.get("client"))
        return members(request)

    monkeypatch.setattr(Request, "members", noting)
    with local_machine(tmp_path) as local, connect(local.socket, client="vboot embed") as machine:
        assert isinstance(machine.greeted, Hello)
    assert said[0] == f"vboot embed, pid {os.getpid()}"
