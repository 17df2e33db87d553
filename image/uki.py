"""Unified kernel images (UAPI.5): one EFI program of kernel, initramfs and command line, on systemd's stub. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from image import pe
from image.pe import Pe
from vboot.errors import InputError

MOST_BYTES = 512 << 20
"""The largest that is made. Sizes are 32-bit numbers, and firmware is reported to fail from 2 GiB on, and to take half
a minute for a quarter of one: a model belongs into a slot of the disk."""
MOST_COMMAND_LINE = 2047
"""Linux on x86 takes so many bytes and a zero."""

_STUB_MARK = b"systemd-stub"
_SBAT_HEAD = "sbat,1,"
_KERNEL_MAGIC_AT, _KERNEL_MAGIC = 0x202, b"HdrS"
_SINGLE = (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")


class UkiError(InputError):
    """A file is no unified kernel image, or one cannot be made."""


@dataclass(frozen=True)
class Uki:
    """What a unified kernel image holds. `signed`: it has a Secure Boot signature, which is not checked here."""

    kernel: bytes
    initramfs: bytes
    command_line: str
    os_release: str
    release: str
    sbat: str
    signed: bool = False

    def word(self, name: str) -> str | None:
        """The value of the last NAME=VALUE on the command line, which is the one that counts."""
        values = [word.removeprefix(f"{name}=") for word in self.command_line.split() if word.startswith(f"{name}=")]
        return values[-1] if values else None


def os_release(*, version: str, slot: str) -> str:
    """The text by which a boot menu names an image, and orders several."""
    return (
        f'ID=vector_boot\nNAME="vector_boot"\nPRETTY_NAME="vector_boot {version}, slot {slot}"\nVERSION_ID={version}\n'
        f"IMAGE_ID=vb-{slot.lower()}\nIMAGE_VERSION={version}\n"
    )


def build(
    stub: bytes, *, kernel: bytes, initramfs: bytes, command_line: str, os_release: str, release: str, version: str
) -> bytes:
    """The image of a kernel (a bzImage with CONFIG_EFI_STUB) whose `uname -r` is `release`.

    `stub` is systemd's linuxx64.efi.stub, `version` that of vector_boot. The same inputs give the same bytes. Raises
    UkiError or PeError for inputs that firmware would not run.
    """
    base = _read_stub(stub)
    inner = _read_kernel(kernel)
    contents = [
        (".osrel", os_release.encode(), 0),
        (".cmdline", _command_line(command_line), 0),
        (".uname", release.encode("ascii"), 0),
        (".sbat", _merged_sbat(base, inner, version=version), 0),
        # The kernel's own sections may be larger in memory than in its file.
        (".linux", kernel, inner.size_of_image),
        (".initrd", initramfs, 0),
    ]
    total = sum(max(len(data), least) for _, data, least in contents)
    if total > MOST_BYTES:
        raise UkiError(
            f"kernel and initramfs take {total} bytes, and firmware loads at most {MOST_BYTES}",
            remedy="put the model into a slot of the disk, not into the initramfs",
        )
    return pe.append(base, contents, without=(".sbat",))


def read(data: bytes, *, what: str = "the file") -> Uki:
    """Read an image, which errors call `what`. Raises UkiError or PeError."""
    image = pe.read(data, what=what)
    _require_x86_64(image, what=what)
    found: dict[str, bytes] = {}
    for section in image.sections:
        if section.name in found and section.name in _SINGLE:
            raise UkiError(f"{what} has two sections {section.name!r}, expected one")
        found[section.name] = section.data
    for name in _SINGLE:
        if name not in found:
            raise UkiError(f"{what} is no image of vector_boot: it has no section {name!r}")
    return Uki(
        kernel=found[".linux"],
        initramfs=found[".initrd"],
        command_line=_text(found[".cmdline"], ".cmdline", what=what),
        os_release=_text(found[".osrel"], ".osrel", what=what),
        release=_text(found[".uname"], ".uname", what=what),
        sbat=_text(found[".sbat"], ".sbat", what=what),
        signed=image.signed,
    )


def _read_stub(stub: bytes) -> Pe:
    base = pe.read(stub, what="the stub")
    _require_x86_64(base, what="the stub")
    mark = base.section(".sdmagic")
    if mark is None or _STUB_MARK not in mark.data or not base.is_efi_application:
        raise UkiError(
            "the stub is not systemd's", remedy="give linuxx64.efi.stub of Debian's package systemd-boot-efi"
        )
    present = [name for name in _SINGLE if name != ".sbat" and base.section(name)]
    if base.signed or present:
        what = "signed" if base.signed else f"an image already: it has a section {present[0]!r}"
        raise UkiError(f"the stub is {what}", remedy="give the unsigned linuxx64.efi.stub")
    return base


def _read_kernel(kernel: bytes) -> Pe:
    if kernel[_KERNEL_MAGIC_AT : _KERNEL_MAGIC_AT + 4] != _KERNEL_MAGIC:
        raise UkiError("the kernel is no bzImage: no HdrS at offset 0x202", remedy="give arch/x86/boot/bzImage")
    if kernel[:2] != b"MZ":
        raise UkiError("firmware cannot start the kernel: it was built without CONFIG_EFI_STUB")
    inner = pe.read(kernel, what="the kernel")
    _require_x86_64(inner, what="the kernel")
    return inner


def _require_x86_64(image: Pe, *, what: str) -> None:
    if image.machine != pe.X86_64:
        raise UkiError(f"{what} is for machine {image.machine:#06x}, expected {pe.X86_64:#06x} (x86-64)")


def _command_line(text: str) -> bytes:
    if not text.isascii() or not text.isprintable():
        raise UkiError(f"expected a kernel command line of printable ASCII characters, got {text!r}")
    if len(text) > MOST_COMMAND_LINE:
        raise UkiError(f"the kernel command line has {len(text)} bytes, and Linux takes {MOST_COMMAND_LINE}")
    return text.encode()


def _merged_sbat(stub: Pe, kernel: Pe, *, version: str) -> bytes:
    """The revocation data (shim's SBAT) of all parts: its own first line, then a line for each component."""
    lines: dict[str, None] = {}
    for part in (stub, kernel):
        section = part.section(".sbat")
        text = section.data.rstrip(b"\0").decode("ascii", "replace") if section else ""
        lines.update(dict.fromkeys(line for line in text.splitlines() if line))
    head = [line for line in lines if line.startswith(_SBAT_HEAD)]
    if not head:
        raise UkiError("the stub has no revocation data: no section '.sbat' that begins with 'sbat,1,'")
    rest = [line for line in lines if not line.startswith("sbat,")]
    ours = f"vector_boot,1,vector_boot,vector_boot,{version},-"
    return ("\n".join([head[0], *rest, ours]) + "\n\0").encode()


def _text(data: bytes, name: str, *, what: str) -> str:
    try:
        return data.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise UkiError(f"{what} is damaged: its section {name!r} is no text") from error
