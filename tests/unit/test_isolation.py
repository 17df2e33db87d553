"""What the running worker may still do: its memory, its limits, and the system calls that it makes and may make."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import gguf
import numpy as np
import pytest

from builder.executable import CRATE, executable_path
from tests.support.local_machine import local_machine, tiny_model
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import MachineError
from vboot.weights.edits import Dense, Seeded

SANDBOX = CRATE / "src" / "sys" / "sandbox.rs"
RULE = re.compile(r"^    Rule\(libc::SYS_(\w+), .*?\),(?: *// (.*))?$", re.MULTILINE)
NOT_PROVOKED = {
    "clock_gettime": "the time comes from the vDSO, without a system call, where the kernel provides it",
    "exit": "a thread of the worker ends with the process alone",
    "exit_group": "the worker ends by a signal, except after a panic",
    "fadvise64": "only the children that read the ESP drop pages from the cache",
    "fallocate": "the journal in memory is compacted only after more than a third of the memory",
    "fcntl": "only at a reload, and in a debug build",
    "getrandom": "std takes it once; a machine with a mutation key and no state device takes its id",
    "madvise": "the allocator gives back memory after a large request",
    "mprotect": "an arena of the allocator grows",
    "mremap": "the allocator moves a very large block",
    "openat": "the allocator of the second thread gives back memory; it is denied",
    "recvmsg": "only at a reload",
    "restart_syscall": "only after the process was stopped during a wait",
    "rt_sigaction": "the C library's abort, should SIGABRT be ignored",
    "sched_getaffinity": "a further arena of the allocator is made",
    "sched_yield": "the two threads meet in a channel",
    "sendmsg": "only at a reload",
    "sigaltstack": "a thread of the worker ends with the process alone",
    "sysinfo": "an image is made in the journal in memory",
    "writev": "the C library's last words, when it finds its heap damaged",
}
"""Rules that the workload here need not use, and when they are used."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """The worker's and the supervisor's process ids, and the log."""
    folder = tmp_path_factory.mktemp("machine")
    with local_machine(folder) as local, connect(local.socket) as client:
        client.embed(["a text"])
        stats = client.stats()
        yield stats.worker.pid, stats.supervisor.pid, folder / "machine.log"


def test_nothing_that_is_writable_is_executable(worker: tuple[int, int, Path]) -> None:
    for pid in worker[:2]:
        rights = [line.split()[1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        assert len(rights) > 5
        assert [each for each in rights if "w" in each and "x" in each] == []


def test_the_worker_has_the_limits_that_are_documented(worker: tuple[int, int, Path]) -> None:
    text = Path(f"/proc/{worker[0]}/limits").read_text()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()[1:]}
    zero = ("Max core file size", "Max processes", "Max locked memory", "Max msgqueue size", "Max nice priority")
    for name in (*zero, "Max realtime priority"):
        assert limits[name] == ["0", "0"], name
    assert [int(each) <= 256 for each in limits["Max open files"]] == [True, True]
    assert [0 < int(each) <= 64 << 30 for each in limits["Max file size"]] == [True, True]


def test_landlock_is_in_force_where_the_kernel_has_it(worker: tuple[int, int, Path]) -> None:
    """The worker tries to open a folder and does not serve if it can; it says so where there is no Landlock."""
    lsm = Path("/sys/kernel/security/lsm")
    if lsm.is_file() and "landlock" in lsm.read_text():
        assert "no Landlock" not in worker[2].read_text()
    for thread in Path(f"/proc/{worker[0]}/task").iterdir():
        fields = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("number", [41, 57, 59, 101, 165, 321, 425, 435])
def test_a_call_without_a_rule_ends_the_worker_and_not_the_machine(tmp_path: Path, number: int) -> None:
    """socket, fork, execve, ptrace, mount, bpf, io_uring_setup, clone3: on x86-64, made by the running worker."""
    with local_machine(tmp_path, "--fault") as local, connect(local.socket) as client:
        before = client.stats()
        client.fault("call", count=number)
        after = await_successor(client, before.worker.pid)
        assert after == before.worker.restarts + 1
        assert client.stats().supervisor.pid == before.supervisor.pid
        assert "the worker was killed by signal 31" in (tmp_path / "machine.log").read_text()


def test_opening_a_file_is_denied_and_the_worker_lives(tmp_path: Path) -> None:
    with local_machine(tmp_path, "--fault") as local, connect(local.socket) as client:
        pid = client.stats().worker.pid
        client.fault("call", count=257)  # openat
        assert client.stats().worker.pid == pid


def test_each_rule_says_why() -> None:
    text = SANDBOX.read_text("utf-8")
    rules = text[text.index("const ALLOWED") : text.index("const DENIED")]
    found = RULE.findall(rules)
    assert len(found) == rules.count("Rule(libc::SYS_") > 30
    for name, reason in found:
        above = re.search(rf"// (.+)\n    Rule\(libc::SYS_{name},", rules)
        assert reason or above, f"{name} has no reason"


def test_no_rule_is_superfluous(tmp_path: Path) -> None:
    """A worker under a workload makes each call that has a rule, or the list above says when it would."""
    allowed = {name for name, _ in RULE.findall(SANDBOX.read_text("utf-8"))} | {"tgkill", "openat"}
    made = traced(tmp_path)
    assert made <= allowed, "the filter would have ended the worker"
    assert allowed - made <= set(NOT_PROVOKED)
    assert set(NOT_PROVOKED) <= allowed, "a rule that is gone is still excused"


def traced(folder: Path) -> set[str]:
    """The names of all calls that workers made behind their filter."""
    large = folder / "large.gguf"
    writer = gguf.GGUFWriter(large, "unknown")
    writer.add_tensor("w", np.arange(1 << 20, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found: set[str] = set()
    for model, load in ((tiny_model(), small_load), (large, large_load)):
        socket, trace = folder / f"{model.stem}.sock", folder / f"{model.stem}.trace"
        watcher = ["strace", "-f", "-qq", "-e", "signal=none", "-s", "0", "-o", str(trace)]
        command = [str(executable_path()), "--listen", str(socket), "--tensors", str(model)]
        options = ["--fault", "--energy", "off"]
        if model == large:
            state = folder / "state.img"
            with state.open("wb") as file:
                file.truncate(256 << 20)
            options += ["--state", str(state)]
        with subprocess.Popen([*watcher, *command, *options], stdout=subprocess.DEVNULL) as process:
            try:
                until = time.monotonic() + 120
                while not socket.is_socket():
                    assert process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.02)
                load(socket)
                with connect(socket, timeout=60) as client:
                    client.shutdown()
                process.wait(60)
            finally:
                process.kill()
        found |= calls(trace.read_text().splitlines())
    return found


def calls(lines: list[str]) -> set[str]:
    """The calls of processes that have installed a filter, and of their threads."""
    owner: dict[str, str] = {}
    filtered: set[str] = set()
    names: set[str] = set()
    for line in lines:
        match = re.match(r"(\d+) +(?:<\.\.\. )?(\w+)", line)
        if match is None:
            continue
        thread, name = match.groups()
        process = owner.get(thread, thread)
        made = re.search(r"\) += (\d+)$", line) if name == "clone3" else None
        if made is not None:
            owner[made.group(1)] = process
        if name == "seccomp":
            filtered |= {process} if "SET_MODE_FILTER" in line else set()
        elif process in filtered and name != "exited":
            names.add(name)
    return names


def small_load(socket: Path) -> None:
    for fault in ("abort", "segv", "hang", "oom", None):
        with connect(socket, timeout=60) as client:
            client.mutate([Seeded("blk.*.weight", "00" * 8, "normal", 0.5, 0.01)], confidence=0.9)
            client.embed(["a text", "another " * 50] * 20)
            client.execute_pixels(b"abc")
            client.digest()
            client.rollback(0)
            made = client.mutate([Dense("token_embd.weight", 0, b"\0\x39")], confidence=0.9, lease_ms=10)
            await_end_of_trial(client, made.generation)
            client.interrupt()
            if fault is not None:
                pid = client.stats().worker.pid
                client.fault(fault)
                await_successor(client, pid)
    with ExitStack() as stack, suppress(MachineError):
        for _ in range(17):
            stack.enter_context(connect(socket, timeout=60))


def large_load(socket: Path) -> None:
    with connect(socket, timeout=60) as client:
        for number in range(12):
            client.mutate([Dense("w", 0, np.full(1 << 20, number + 1, np.float32).tobytes())], confidence=0.9)
        client.mutate([Seeded("w", "00" * 8, "normal", 0.5, 0.01)], confidence=0.9)
        base = client.hello().generation
        for _ in range(2):  # the reply to the second one is read from the journal
            client.mutate([Dense("w", 0, bytes(4))], confidence=0.9, digest=True, id="01" * 16, base_generation=base)
        client.digest(generation=3)
        client.rollback(2)
        client.checkpoint()


def await_end_of_trial(client: MachineClient, generation: int) -> None:
    """Wait until the trial of this generation was rolled back: not between `hello` and the next change."""
    until = time.monotonic() + 120
    while client.hello().generation == generation:
        assert time.monotonic() < until, "the trial goes on"
        time.sleep(0.01)


def await_successor(client: MachineClient, pid: int) -> int:
    """Wait for another worker than `pid`; how often workers were started again."""
    until = time.monotonic() + 120
    while True:
        stats = client.stats()
        if stats.worker.pid != pid:
            return stats.worker.restarts
        assert time.monotonic() < until, "the worker lives on"
        time.sleep(0.02)
