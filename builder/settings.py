"""Every key of `appliance.toml`, declared once: the TOML reader, the flags and their help are made from SETTINGS."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vboot.errors import InputError
from vboot.text import parse_path

Value = str | int | Path | None
Kind = Literal["text", "integer", "path", "name or path"]
WeightType = Literal["F16", "F32", "Q8_0"]
PoolingName = Literal["mean", "cls", "last"]

U64_MAX = 2**64 - 1
DEFAULT_OUTPUT = Path("build")


def shown(value: object) -> str:
    """A value as an error shows it: quoted, cut when long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Setting:
    """One key: its place in `appliance.toml`, the flag that overrides it, and its valid values.

    `choices` are the only values a text may have; for a "name or path" they are the names that are not paths.
    `verbs` are the commands that take the flag. `environment` names a variable that overrides the file; a flag
    overrides both.
    """

    section: str
    key: str
    kind: Kind
    default: Value
    flag: str
    verbs: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = U64_MAX
    environment: str | None = None

    @property
    def name(self) -> str:
        """The dotted TOML key, as errors print it."""
        return f"{self.section}.{self.key}"

    @property
    def metavar(self) -> str:
        """What the help shows in place of a value."""
        if self.kind == "integer":
            return "N"
        names = "|".join(self.choices)
        if self.kind == "name or path":
            return f"{names}|PATH"
        return names or ("PATH" if self.kind == "path" else "TEXT")

    def from_toml(self, value: object, *, folder: Path) -> Value:
        """Accept a TOML value; relative paths start at `folder`, the folder of the file. Raises InputError."""
        if self.kind == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                raise self._wrong(value, "must be a whole number")
            return self._in_range(value)
        if not isinstance(value, str):
            raise self._wrong(value, "must be a string")
        accepted = self._accept_text(value)
        is_path = self.kind == "path" or (self.kind == "name or path" and value not in self.choices)
        if not is_path:
            return accepted
        return folder / str(accepted) if self.kind == "path" else str(folder / str(accepted))

    def from_text(self, text: str) -> Value:
        """Accept the text of a flag or environment variable; relative paths are not changed. Raises InputError."""
        if self.kind != "integer":
            return self._accept_text(text)
        # int() alone would also accept "1_000", " 7 " and digits of other scripts.
        if not (text.isascii() and text.removeprefix("-").isdigit()) or len(text) > 20:
            raise self._wrong(text, f"must be a whole number from {self.minimum} to {self.maximum}")
        return self._in_range(int(text))

    def _in_range(self, value: int) -> int:
        if not self.minimum <= value <= self.maximum:
            raise self._wrong(value, f"is not from {self.minimum} to {self.maximum}")
        return value

    def _accept_text(self, text: str) -> str | Path:
        if self.kind == "text":
            if not text.isprintable():
                raise self._wrong(text, "has characters that cannot be printed")
            if self.choices and text not in self.choices:
                nearest = difflib.get_close_matches(text, self.choices, n=1)
                hint = f", did you mean {nearest[0]}?" if nearest else ""
                raise self._wrong(text, f"is not one of {', '.join(self.choices)}{hint}")
            return text
        if not text:
            raise self._wrong(text, "is empty")
        if text in self.choices:
            return text
        try:
            path = parse_path(text)
        except ValueError as error:
            raise self._wrong(text, "has a NUL character, which no path can have") from error
        return path if self.kind == "path" else str(path)

    def _wrong(self, value: object, why: str) -> InputError:
        return InputError(f"{self.name} = {shown(value)} {why}")


# `boot` and `demo` build first, so they accept the flags of `build`.
BUILD = ("build", "boot", "demo")
IMAGE = ("build", "compose", "boot", "demo")
MACHINE = ("boot", "demo")
STATE = ("boot",)
RUNTIME = ("build", "boot", "demo")

# fmt: off
SETTINGS: tuple[Setting, ...] = (
    Setting("model", "source", "name or path", "minilm", "--model", IMAGE,
            "the model: minilm (sentence embeddings), tiny (for tests) or the path of a GGUF file",
            choices=("minilm", "tiny"), environment="VBOOT_MODEL"),
    Setting("model", "type", "text", None, "--type", IMAGE,
            "type of the weights of minilm or tiny, default F16; the weights of a GGUF file are not converted",
            choices=("F16", "F32", "Q8_0"), environment="VBOOT_TYPE"),
    Setting("model", "pooling", "text", None, "--pooling", IMAGE,
            "how the tokens' vectors become one embedding, for a bert model whose file does not state it",
            choices=("mean", "cls", "last")),
    Setting("model", "max_tokens", "integer", None, "--max-tokens", IMAGE,
            "maximum tokens of a text, for a bert model that takes fewer than its context length; longer texts are cut",
            minimum=2, maximum=2**32 - 1),

    Setting("image", "output", "path", DEFAULT_OUTPUT, "--output", BUILD,
            "folder the image is written to"),
    Setting("image", "security_version", "integer", 0, "--security-version", BUILD,
            "number for rollback protection, recorded in the image; an update must not lower it"),
    Setting("image", "signing_key", "path", None, "--signing-key", BUILD,
            "Ed25519 private key (PEM) that signs the image; unsigned without it"),
    Setting("image", "mutation_key", "path", None, "--mutation-key", IMAGE,
            "Ed25519 public key (PEM): the machine takes only changes signed with the private key of its pair"),
    Setting("image", "format", "text", "direct", "--format", BUILD,
            "direct (kernel, initramfs and image for QEMU), or disk: a disk for UEFI firmware too; disk,qcow2,vmdk,vhdx"
            " makes copies in these formats of virtual machines"),

    Setting("image", "secure_boot", "path", None, "--sign", BUILD,
            "folder with secureboot.key and secureboot.crt, which sign the boot images of a disk (`vboot keygen"
            " --secure-boot`)"),

    Setting("disk", "esp_mib", "integer", 64, "--esp-size", BUILD,
            "size in MiB of the disk's EFI system partition", minimum=34, maximum=2048),
    Setting("disk", "slot_mib", "integer", None, "--slot-size", BUILD,
            "size in MiB of each of the disk's two slots (default: the image's and a quarter)", minimum=1,
            maximum=2**20),
    Setting("disk", "state_mib", "integer", None, "--state-partition-size", BUILD,
            "size in MiB of the disk's state partition (default: 64 and four times the model)", minimum=16,
            maximum=65536),

    Setting("machine", "memory_mib", "integer", 0, "--memory", MACHINE,
            "memory in MiB; 0 computes what the machine needs", maximum=2**20),
    Setting("machine", "accel", "text", "auto", "--accel", MACHINE,
            "QEMU accelerator; auto uses KVM where a test guest runs under it", choices=("auto", "kvm", "tcg")),
    Setting("machine", "cpus", "integer", 2, "--cpus", MACHINE,
            "number of processors", minimum=1, maximum=64),
    Setting("machine", "cpu", "text", "max", "--cpu", MACHINE,
            "QEMU processor model, as `qemu-system-x86_64 -cpu help` lists them, with features such as Haswell,-avx2"),
    Setting("machine", "append", "text", "", "--append", MACHINE,
            "words added to the kernel command line"),
    Setting("machine", "state", "path", None, "--state", STATE,
            "file on which changes survive the machine, made if it is not there; without it they end with the machine"),
    Setting("machine", "state_size_mib", "integer", None, "--state-size", STATE,
            "size in MiB of a new state file (default: 64 and four times the model)", minimum=16, maximum=65536),

    Setting("kernel", "source", "name or path", "debian", "--kernel", BUILD,
            "debian (its package), own (small and fast; its first build takes minutes) or the path of a bzImage",
            choices=("debian", "own")),
    Setting("kernel", "profile", "text", "vm", "--profile", BUILD,
            "vm (virtio disks) or metal (disks, keyboards and consoles of a PC too)", choices=("vm", "metal")),
    Setting("kernel", "config", "path", None, "--kernel-config", BUILD,
            "configuration (.config) of your own kernel"),
    Setting("kernel", "modules", "path", None, "--kernel-modules", BUILD,
            "lib/modules/RELEASE folder of your own kernel"),

    Setting("runtime", "heartbeat_ms", "integer", 100, "--heartbeat-ms", RUNTIME,
            "milliseconds between two heartbeats", minimum=10, maximum=10_000),
    Setting("runtime", "onfail", "text", "poweroff", "--onfail", RUNTIME,
            "what the machine does when it cannot start", choices=("poweroff", "reboot", "hold")),
    Setting("runtime", "energy", "text", "on", "--energy", RUNTIME,
            "whether an energy budget limits the rate of mutations", choices=("on", "off")),
    Setting("runtime", "fault", "integer", 0, "--fault", RUNTIME,
            "1 lets clients inject faults for tests, in unsigned images only", maximum=1),
)
"""All settings, in the order of the file and the help."""
# fmt: on


@dataclass(frozen=True)
class ModelSettings:
    """[model]: the model of the image. `type` None is F16 for the built-in models, and the file's own types otherwise.
    `pooling` and `max_tokens` None leave both as the model states them.

    `source_origin` names the environment variable that `source` came from; empty if it came from elsewhere.
    """

    source: str
    type: WeightType | None
    pooling: PoolingName | None = None
    max_tokens: int | None = None
    source_origin: str = ""


@dataclass(frozen=True)
class ImageSettings:
    """[image]: what is written, how it is signed, and which key changes of the machine must be signed with."""

    output: Path
    security_version: int
    signing_key: Path | None
    mutation_key: Path | None
    format: str = "direct"
    secure_boot: Path | None = None


@dataclass(frozen=True)
class DiskSettings:
    """[disk]: the sizes of the partitions of a disk in MiB; those that are None are computed from the model."""

    esp_mib: int
    slot_mib: int | None
    state_mib: int | None


@dataclass(frozen=True)
class MachineSettings:
    """[machine]: the virtual machine that boots the image; `memory_mib` 0 is computed, no `state` is no state disk."""

    memory_mib: int
    accel: str
    cpus: int
    cpu: str
    append: str
    state: Path | None = None
    state_size_mib: int | None = None


@dataclass(frozen=True)
class KernelSettings:
    """[kernel]: the kernel of the image."""

    source: str
    config: Path | None
    modules: Path | None
    profile: str = "vm"


@dataclass(frozen=True)
class RuntimeSettings:
    """[runtime]: how the machine behaves; these become words of the kernel command line."""

    heartbeat_ms: int
    onfail: str
    energy: str
    fault: int


@dataclass(frozen=True)
class Config:
    """All settings, resolved; one attribute per section of `appliance.toml`.

    `remembered` names the settings whose values are those of the last build in the output folder.
    """

    model: ModelSettings
    image: ImageSettings
    disk: DiskSettings
    machine: MachineSettings
    kernel: KernelSettings
    runtime: RuntimeSettings
    remembered: frozenset[str] = frozenset()
