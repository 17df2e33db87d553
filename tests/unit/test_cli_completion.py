"""`vboot completion`: the scripts, run by the shells themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from cli import VERBS, full_parser
from cli.tensor_names import tensor_names
from tests.support.local_machine import tiny_model
from tests.support.vboot import Vboot
from vboot.gguf import read_layout

Complete = Callable[[str], set[str]]
"""What Tab offers for the last word of a line."""

_BASH = """
source ./vboot.bash
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_vboot
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(line: str) -> set[str]:
    done = subprocess.run(["bash", "-c", _BASH, "bash", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def in_zsh(line: str) -> set[str]:
    """The word that one Tab makes of the last one, as it stands on the line: zsh has no way to ask for a list."""
    zsh: Any = pexpect.spawn("zsh", ["-f", "-i"], encoding="utf-8", dimensions=(60, 200), timeout=60)
    with zsh:
        zsh.sendline("autoload -Uz compinit; compinit -u -D; source ./vboot.zsh; zle -N show; bindkey '^X' show")
        zsh.sendline('show() { zle -I; print -r -- "<""<$BUFFER>>" }')
        zsh.send(f"{line}\t\x18")
        zsh.expect("<<(.*?)>>")
        completed: str = zsh.match[1].removesuffix(" ")
    return {completed.rpartition(" ")[2]} - {line.rpartition(" ")[2]}


def in_fish(line: str) -> set[str]:
    script = "source ./vboot.fish; complete -C $argv"
    done = subprocess.run(["fish", "--no-config", "-c", script, line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {row.partition("\t")[0] for row in done.stdout.splitlines()}


SHELLS: dict[str, Complete] = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}
installed = pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])


@pytest.fixture
def complete(vboot: Vboot, shell: str, tmp_path: Path) -> Complete:
    """Completes lines in the folder of the test, by the script of the shell."""
    assert vboot("completion", shell) == 0
    (tmp_path / f"vboot.{shell}").write_text(vboot.out)
    return SHELLS[shell]


@installed
def test_verbs_operations_options_and_their_words(complete: Complete) -> None:
    assert complete("vboot bo") == {"boot"}
    assert complete("vboot surgeon ap") == {"apply"}
    assert complete("vboot boot --mem") == {"--memory"}
    assert complete("vboot surgeon verify --aga") == {"--against"}
    assert complete("vboot verify --aga") == set()
    assert complete("vboot boot --accel k") == {"kvm"}
    assert complete("vboot --config x build --onfail h") == {"hold"}


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "fish") if shutil.which(shell)])
def test_lists(complete: Complete) -> None:
    assert complete("vboot ") >= set(VERBS)
    assert complete("vboot surgeon ") >= {"apply", "diff", "export", "merge", "verify"}
    assert complete("vboot boot --accel ") >= {"auto", "kvm", "tcg"}


@installed
def test_files_and_the_run_folders_of_running_machines(complete: Complete, shell: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    for name, pid in (("running", os.getpid()), ("ended", 2**22)):
        run = tmp_path / "build" / "run" / name
        run.mkdir(parents=True)
        (run / "machine.json").write_text(f'{{\n  "run": "x",\n  "pid": {pid},\n  "a": 1\n}}\n')
    assert complete("vboot inspect mod") == {"model.gguf"}
    assert complete("vboot build --model mini") == {"minilm"}
    assert complete("vboot build --model mod") == {"model.gguf"}
    # A file name would end after the first folder.
    assert complete("vboot history build/r") >= {"build/run/running"} or shell == "zsh"
    assert "build/run/ended" not in complete("vboot history build/r")


@installed
def test_tensors_of_the_model_of_the_newest_machine(
    complete: Complete, shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    image = tmp_path / "elsewhere"
    image.mkdir()
    shutil.copy(tiny_model(), image / "vectorland.gguf")
    run = tmp_path / "build" / "run" / "one"
    run.mkdir(parents=True)
    inputs = [{"path": str(image / "vector_boot.rts")}]
    (run / "machine.json").write_text(json.dumps({"pid": os.getpid(), "run": str(run), "inputs": inputs}))
    registry = tmp_path / "runtime" / "vector_boot" / "runs"
    registry.mkdir(parents=True)
    (registry / "one.json").write_text(json.dumps({"pid": os.getpid(), "run": str(run)}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    folder = tmp_path / "another"
    folder.mkdir()
    shutil.copy(f"vboot.{shell}", folder)
    monkeypatch.chdir(folder)  # the machine is found from any folder
    assert complete("vboot tensors blk.0.ffn_up.w") == {"blk.0.ffn_up.weight"}
    assert complete("vboot mutate --seeded token_embd.w") == {"token_embd.weight"}
    assert {name.replace("\\", "") for name in complete("vboot mutate --set blk.0.ffn_up.b")} == {"blk.0.ffn_up.bias["}
    assert complete("vboot mutate --dense blk.0.ffn_up.b") == {"blk.0.ffn_up.bias@"}


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "fish") if shutil.which(shell)])
def test_machines_of_other_folders_are_offered(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    registry = tmp_path / "runtime" / "vector_boot" / "runs"
    registry.mkdir(parents=True)
    for name, pid in (("running", os.getpid()), ("ended", 2**22)):
        (registry / f"{name}.json").write_text(json.dumps({"run": f"/far/{name}", "pid": pid}))
    found = complete("vboot history /far/")
    assert "/far/running" in found
    assert "/far/ended" not in found


def test_tensor_names_of_anything_but_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model"
    whole = tiny_model().read_bytes()[:4096]
    for data in (b"", b"GGUF", b"\xff" * 100, whole[:50], whole[:1000], b"GGUF" + b"\xff" * 100):
        file.write_bytes(data)
        assert not set(tensor_names(file)) - set(tensor_names(tiny_model()))
    assert tensor_names(tmp_path / "absent") == ()
    layout = read_layout(memoryview(tiny_model().read_bytes()), name="tiny")
    assert tensor_names(tiny_model()) == tuple(each.name for each in layout.tensors)


def test_tab_waits_for_no_numpy() -> None:
    code = "import sys, cli; cli.main(['completion', 'tensor-names']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "gguf", "vboot.client", "qemu.launch", "asyncio"} & set(loaded.split())


def test_every_option_of_every_verb_is_in_every_script(vboot: Vboot) -> None:
    scripts = {shell: vboot.json("completion", shell)["script"] for shell in SHELLS}
    parser: Any = full_parser()
    (verbs,) = [action for action in parser._actions if action.choices]
    for verb in verbs.choices.values():
        for option in verb._option_string_actions:
            assert option in scripts["bash"]
            assert f"{option}[" in scripts["zsh"]
            assert f"-l {option.removeprefix('--')} " in scripts["fish"] or len(option) == 2
    assert subprocess.run(["bash", "-n"], input=scripts["bash"], text=True, check=False).returncode == 0
