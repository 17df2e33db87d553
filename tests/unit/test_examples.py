"""The examples do what examples/README.md says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.local_machine import local_machine, tiny_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def output(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"\]\(([\w/]+\.(?:py|c))\)", (EXAMPLES / "README.md").read_text("utf-8")))
    assert listed == {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".c")}


def test_talk_to_machine(tmp_path: Path) -> None:
    with local_machine(tmp_path) as machine:
        lines = output(sys.executable, EXAMPLES / "talk_to_machine.py", machine.socket).splitlines()
    assert lines[-1] == "generation 2: as before to the bit: True"
    before, after = (line for line in lines if line.startswith("similarity"))
    assert before.rsplit(" ", 1)[1] != after.rsplit(" ", 1)[1]


def test_raw_client(tmp_path: Path) -> None:
    with local_machine(tmp_path) as machine:
        lines = output(sys.executable, "-I", EXAMPLES / "raw_client.py", machine.socket).splitlines()
    assert lines[0].startswith("generation 0, ")
    assert lines[2:4] == ["hw.mmio begins 544f425601000000", "newest record: boot"]
    assert lines[4].endswith("(code 1001)")


def test_my_strategy(library: Path) -> None:
    assert library.exists()
    lines = output(sys.executable, EXAMPLES / "my_strategy.py", tiny_model()).splitlines()
    scores = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]


def test_embed_in_c(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(EXAMPLES / "c", folder, ignore=shutil.ignore_patterns("embed"))
    crate = library.parents[2]
    flags = "CFLAGS=-std=c11 -Wall -Wextra -Werror"
    output("make", "-s", "-C", folder, f"CRATE={crate}", f"LIBRARY={library.parent}", flags)
    text = 'the cat\tsat on "the" mat'
    same, other = output(folder / "embed", tiny_model(), text, text, "42 is a number").splitlines()
    assert same.startswith("1.0000")
    assert float(other.split()[0]) < 0.9


def test_the_machine_for_libvirt_is_valid() -> None:
    command = ["virt-xml-validate", str(EXAMPLES / "libvirt.xml"), "domain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
