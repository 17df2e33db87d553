"""A ROM that prints a text on the first serial port, made by hand: a guest that needs no kernel."""

from __future__ import annotations

_SIZE = 0x10000
_TEXT_AT = 0x100


def serial_rom(text: bytes, *, exit_value: int | None) -> bytes:
    """64 KiB for `-bios`. After the text it halts, or waits a moment and writes `exit_value` to port 0xf4."""
    program = bytes(
        [
            *(0xBE, _TEXT_AT & 0xFF, _TEXT_AT >> 8),  # mov si, text
            *(0x2E, 0xAC),  # next: lods byte [cs:si]
            *(0x84, 0xC0),  # test al, al
            *(0x74, 0x11),  # jz done
            *(0x88, 0xC4),  # mov ah, al
            *(0xBA, 0xFD, 0x03),  # mov dx, 0x3fd
            *(0xEC, 0xA8, 0x20, 0x74, 0xFB),  # wait: in al, dx; test al, 0x20; jz wait
            *(0xB2, 0xF8),  # mov dl, 0xf8
            *(0x88, 0xE0, 0xEE),  # mov al, ah; out dx, al
            *(0xEB, 0xE9),  # jmp next
        ]
    )
    # QEMU exits at once, so the guest waits first until pending QMP commands have been answered:
    # mov ecx, 20,000,000; loop to itself; mov al, value; out 0xf4, al.
    wait = b"\x66\xb9" + (20_000_000).to_bytes(4, "little") + b"\x67\xe2\xfd"
    end = b"" if exit_value is None else wait + bytes([0xB0, exit_value, 0xE6, 0xF4])
    halt = bytes([0xF4, 0xEB, 0xFD])  # hlt; jmp to the hlt
    image = bytearray(_SIZE)
    code = program + end + halt
    image[: len(code)] = code
    image[_TEXT_AT : _TEXT_AT + len(text)] = text
    image[-16:-13] = bytes([0xE9, 0x0D, 0x00])  # the CPU starts here: jmp to offset 0 of these 64 KiB
    return bytes(image)
