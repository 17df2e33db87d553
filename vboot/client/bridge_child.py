"""The child process of a bridge: it loads the C library and calls its functions, so a crash ends only this process.

    python -m vboot.client.bridge_child LIBRARY FAULTS SOCKET WEIGHTS JOURNAL WORDS MESSAGES [MODEL]

SOCKET, WEIGHTS, JOURNAL, WORDS and MESSAGES are file descriptors; FAULTS is 1 if FAULT packets are allowed. It ends
when its parent ends.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable

from vboot.client.bridge_packets import LOADED, Kind, Packet, cut, encode
from vboot.client.bridge_slots import SlotReader

_PIECE = 1 << 18
_TICK_MS = 100


class StatsStructure(ctypes.Structure):
    """The struct NeuralStats of the C interface."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("pixels_processed", ctypes.c_uint64),
        ("programs", ctypes.c_uint64),
        ("interrupts", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("mutations_accepted", ctypes.c_uint64),
        ("mutations_refused", ctypes.c_uint64),
        ("tensor_bytes", ctypes.c_uint64),
        ("changed_bytes", ctypes.c_uint64),
        ("uptime_us", ctypes.c_uint64),
    )


class RuntimeCallError(Exception):
    """A C function failed; the text is that of neural_last_error."""


class Library:
    """The functions of the C library. Raises OSError or AttributeError if the file is not that library."""

    def __init__(self, path: str) -> None:
        self._c = ctypes.CDLL(path)
        buffer, size = ctypes.c_void_p, ctypes.c_size_t
        out = ctypes.POINTER(size)
        for name, result, arguments in (
            ("neural_load_shared", ctypes.c_int32, (ctypes.c_char_p, *[ctypes.c_int32] * 3)),
            ("neural_execute_pixels", ctypes.c_int32, (ctypes.c_char_p, size)),
            ("neural_get_stats", ctypes.c_int32, (ctypes.POINTER(StatsStructure),)),
            ("neural_get_result", buffer, (out,)),
            ("neural_data_layout", buffer, (out,)),
            ("neural_request", buffer, (ctypes.c_void_p, size, out)),
            ("neural_free", None, (buffer,)),
            ("neural_last_error", ctypes.c_char_p, ()),
        ):
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments

    def load_shared(self, model: bytes | None, weights: int, journal: int, words: int) -> None:
        """Load a model into these memory files; None: the built-in one."""
        self._require(self._c.neural_load_shared(model, weights, journal, words))

    def execute_pixels(self, pixels: bytes) -> bytes:
        """Run a pixel program, three bytes a pixel."""
        self._require(self._c.neural_execute_pixels(pixels, len(pixels) // 3))
        return b""

    def get_result(self, _: bytes) -> bytes:
        """The output of the last program."""
        return self._taken(self._c.neural_get_result)

    def get_stats(self, _: bytes) -> bytes:
        """The bytes of the struct NeuralStats."""
        stats = StatsStructure(size=ctypes.sizeof(StatsStructure))
        self._require(self._c.neural_get_stats(ctypes.byref(stats)))
        return bytes(stats)

    def data_layout(self, _: bytes) -> bytes:
        """The layout of the tensors, as JSON."""
        return self._taken(self._c.neural_data_layout)

    def request(self, message: bytes) -> bytes:
        """The reply to one message of the protocol."""
        return self._taken(lambda length: self._c.neural_request(message, len(message), length))

    def request_at(self, address: int, size: int) -> bytes:
        """The reply to the message of `size` bytes at this address."""
        return self._taken(lambda length: self._c.neural_request(address, size, length))

    def _taken(self, call: Callable[[object], int | None]) -> bytes:
        length = ctypes.c_size_t()
        memory = call(ctypes.byref(length))
        self._require(memory is not None)
        try:
            return ctypes.string_at(memory or 0, length.value)
        finally:
            self._c.neural_free(memory)

    def _require(self, worked: object) -> None:
        if not worked:
            raise RuntimeCallError(self._c.neural_last_error().decode())


class CallServer:
    """Answers calls that arrive on a socket."""

    def __init__(self, stream: socket.socket, library: Library, slots: SlotReader, *, faults: bool) -> None:
        self._stream = stream
        self._library = library
        self._faults = faults
        self._fault = b""
        self._calls: dict[Kind, Callable[[bytes], bytes]] = {
            Kind.REQUEST: library.request,
            Kind.REQUEST_IN_SLOT: lambda place: library.request_at(*slots.find(place)),
            Kind.EXECUTE_PIXELS: library.execute_pixels,
            Kind.GET_RESULT: library.get_result,
            Kind.GET_STATS: library.get_stats,
            Kind.DATA_LAYOUT: library.data_layout,
            Kind.FAULT: self._arm,
        }

    def serve(self) -> None:
        """Answer calls until the parent closes its end."""
        poller = select.poll()
        poller.register(self._stream, select.POLLIN)
        buffer = bytearray()
        while True:
            while (packet := cut(buffer)) is None:
                if not poller.poll(_TICK_MS):
                    self._library.get_stats(b"")  # any call ends a trial whose lease has expired
                    continue
                data = self._stream.recv(_PIECE)
                if not data:
                    return
                buffer += data
            fault, self._fault = self._fault, b""
            _fail(fault, b"segv-before", b"hang")
            reply = self.answer(packet.number, self._calls[packet.kind], packet.data)
            _fail(fault, b"segv-after")
            self._stream.sendall(encode(reply))

    @staticmethod
    def answer(number: int, call: Callable[[bytes], bytes], data: bytes) -> Packet:
        """The result of a call, or why it failed."""
        try:
            return Packet(Kind.DONE, number, call(data))
        except (RuntimeCallError, ValueError) as error:
            return Packet(Kind.FAILED, number, str(error).encode())

    def _arm(self, what: bytes) -> bytes:
        if not self._faults:
            raise RuntimeCallError("faults are switched off in this bridge")
        self._fault = what
        return b""


def _fail(fault: bytes, *now: bytes) -> None:
    if fault in now and fault.startswith(b"segv"):
        ctypes.memset(0, 1, 1)
    elif fault in now and fault == b"hang":
        time.sleep(1e6)


def _end_with_parent(stream: socket.socket) -> None:
    """Exit when the other end of the socket closes, even during a call: ctypes lets other threads run meanwhile.

    PR_SET_PDEATHSIG does not work here: the signal comes when the thread that started this process ends.
    """

    def watch() -> None:
        poller = select.poll()
        poller.register(stream, 0)
        while not poller.poll():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Load the model, report the result to the parent, and answer its calls."""
    path, faults, *descriptors = arguments[:7]
    handle, weights, journal, words, messages = map(int, descriptors)
    model = os.fsencode(arguments[7]) if len(arguments) > 7 else None
    stream = socket.socket(fileno=handle)
    _end_with_parent(stream)
    try:
        library = Library(path)
    except (OSError, AttributeError) as error:
        stream.sendall(encode(Packet(Kind.NO_LIBRARY, LOADED, str(error).encode())))
        return 1
    try:
        library.load_shared(model, weights, journal, words)
    except RuntimeCallError as error:
        stream.sendall(encode(Packet(Kind.FAILED, LOADED, str(error).encode())))
        return 1
    stream.sendall(encode(Packet(Kind.DONE, LOADED)))
    CallServer(stream, library, SlotReader(messages), faults=faults == "1").serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
