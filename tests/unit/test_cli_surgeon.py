"""`vboot surgeon`, run for real."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from evolution.surgeon import GGUFSurgeon
from image.compose import compose
from tests.support.vboot import Vboot, write_gguf

NOISE = ("--seeded", "blk.*.weight", "--density", "0.5", "--scale", "0.01")
SEED = ("--seed", "00c0ffee00c0ffee")
QUERY = "blk.0.attn_q.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return compose("tiny", tmp_path / "tiny.gguf").path


def test_from_an_edit_to_its_verification(vboot: Vboot, model: Path) -> None:
    planned = vboot.json("surgeon", "apply", model, *NOISE, *SEED, "--dry-run")
    made = vboot.json("surgeon", "apply", model, *NOISE, *SEED, "-o", "out.gguf")
    assert (planned["dry_run"], planned["output"], made["dry_run"], made["output"]) == (True, None, False, "out.gguf")
    assert planned["tensors"] == made["tensors"]
    assert made["model"] == planned["model"] == GGUFSurgeon(Path("out.gguf")).digest() != made["model_before"]
    assert vboot.json("surgeon", "verify", "out.gguf")["model"] == made["model"]
    checked = vboot.json("surgeon", "verify", "out.gguf", "--against", model, *NOISE, *SEED)
    assert (checked["against"], checked["changed"]) == (str(model), made["tensors"])
    assert vboot("surgeon", "verify", "out.gguf", "--against", model, *NOISE, "--seed", "0" * 16) == 1
    place = f"it differs in tensor '{QUERY}', first at byte"
    assert f"out.gguf is not {model} with these edits: {place}" in vboot.last_error()
    assert vboot("surgeon", "diff", model, "out.gguf") == 0
    assert vboot.out.startswith(f"{len(made['tensors'])} tensors differ, 39 are the same\n")
    assert made["model"] in vboot.out


def test_human_readable_output(vboot: Vboot, model: Path) -> None:
    assert vboot("surgeon", "apply", model, "--set", f"{QUERY}[0]=0.1234", "--dry-run") == 0
    assert vboot.out.startswith(f"would change {model}: 2 B in 1 tensor; nothing was written\nmodel ")
    assert vboot.out.splitlines()[-1].split()[:7] == [QUERY, "F16", "2", "B", "1", "of", "4096"]
    assert vboot("surgeon", "apply", model, "--set", f"{QUERY}[0]=0.1234", "--in-place") == 0
    assert vboot.out.startswith(f"{model}: 1.4 MiB, changed 2 B in 1 tensor\n")
    assert vboot("surgeon", "verify", model, "--against", model, "--set", f"{QUERY}[0]=0.1234") == 1
    assert "changes nothing (code 1008)" in vboot.last_error()


def test_recipes_and_generated_seeds(vboot: Vboot, model: Path) -> None:
    edit = {"kind": "dense", "tensor": QUERY, "values": [1.0, 2.0]}
    Path("recipe.json").write_text(json.dumps({"edits": [edit], "confidence": 0.1}))
    made = vboot.json("surgeon", "apply", model, "--recipe", "recipe.json", "-o", "out.gguf")
    assert [each["name"] for each in made["tensors"]] == [QUERY]
    assert vboot("surgeon", "verify", "out.gguf", "--against", model, "--recipe", "recipe.json") == 0
    assert "it is exactly" in vboot.out
    first = vboot.json("surgeon", "apply", model, *NOISE, "--dry-run")
    again = vboot.json("surgeon", "apply", model, *NOISE, "--seed", first["seed"], "--dry-run")
    assert first["model"] == again["model"]
    assert "seed" not in again


def test_requantising(vboot: Vboot, model: Path) -> None:
    options = ("--requantise", "*=Q8_0", "--requantise", f"{QUERY}=f32")
    made = vboot.json("surgeon", "apply", model, *options, "-o", "out.gguf")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader("out.gguf").tensors}
    assert (types[QUERY], types["blk.0.attn_k.weight"], types["blk.0.attn_q.bias"]) == ("F32", "Q8_0", "F32")
    assert made["bytes"] == Path("out.gguf").stat().st_size < model.stat().st_size
    found = vboot.json("surgeon", "diff", model, "out.gguf")
    assert {each["name"] for each in found["tensors"]} == {each["name"] for each in made["tensors"]}
    assert all(each["relative"] < 0.01 for each in found["tensors"])


def test_the_last_matching_pattern_applies(vboot: Vboot, model: Path) -> None:
    options = [word for what in ("*=Q8_0", "blk.*=F32", "*=BF16") for word in ("--requantise", what)]
    made = vboot.json("surgeon", "apply", model, *options, "--dry-run")
    assert {each["type"] for each in made["tensors"]} == {"BF16"}


def test_joining(vboot: Vboot, model: Path) -> None:
    for number in ("1", "2"):
        assert vboot("surgeon", "apply", model, *NOISE, "--seed", number * 16, "-o", f"{number}.gguf") == 0
    files = (model, "1.gguf", "2.gguf")
    assert vboot("surgeon", "merge", *files, "--weights", "2", "-0.5", "-0.5", "-o", "out.gguf") == 0
    assert vboot.out.splitlines()[2].startswith("distance of 1.gguf: 0.0")
    values = [
        {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors}[QUERY].astype(np.float32)
        for file in (*files, "out.gguf")
    ]
    np.testing.assert_allclose(values[3], 2 * values[0] - 0.5 * values[1] - 0.5 * values[2], atol=2e-3)
    crossed = vboot.json("surgeon", "merge", *files[:2], "--crossover", "--rows", "--share", "0.25", "--dry-run")
    again = ("--crossover", "--rows", "--share", "0.25", "--seed", crossed["seed"], "--in-place")
    assert vboot.json("surgeon", "merge", *files[:2], *again)["model"] == crossed["model"]
    write_gguf(Path("alien.gguf"))
    assert vboot("surgeon", "merge", model, "alien.gguf", "--force", "--dry-run") == 1
    assert "are not related: one is of architecture 'bert', one of 'unknown'" in vboot.last_error()


def test_long_lists_are_cut(vboot: Vboot, model: Path) -> None:
    noise = ("--seeded", "*", "--density", "1", "--scale", "0.1", "-o", "out.gguf")
    assert vboot("surgeon", "apply", model, "--requantise", "*=F32", "-o", "wide.gguf") == 0
    assert vboot("surgeon", "apply", "wide.gguf", *noise) == 1
    assert "'evolved.0' has type I8" in vboot.last_error()
    assert vboot("surgeon", "apply", model, "--seeded", "[bpt]*", *noise[2:]) == 0
    assert vboot.out.splitlines()[-1] == "and 21 more"
    assert vboot("surgeon", "diff", model, "out.gguf") == 0
    assert vboot.out.splitlines()[-1] == "and 21 more: use --all to list them"
    assert vboot("surgeon", "diff", model, "out.gguf", "--all") == 0
    assert len(vboot.out.splitlines()) == 3 + 2 + 37


def test_names_in_a_file_cannot_drive_the_terminal(vboot: Vboot) -> None:
    write_gguf(Path("evil.gguf"), name="a\x1b[31mb")
    write_gguf(Path("other.gguf"), name="c")
    for words in (("diff", "evil.gguf", "other.gguf"), ("apply", "evil.gguf", "--set", "a\x1b[31mb[0]=7", "--dry-run")):
        assert vboot("surgeon", *words) == 0
        assert "\x1b" not in vboot.out
        assert r"a\x1b[31mb" in vboot.out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "the following arguments are required: OPERATION"),
        (["apply", "x.gguf", *NOISE], "one of the arguments -o --in-place --dry-run is required"),
        (["apply", "x.gguf", "--dry-run"], "give one of --recipe, --seeded, --set, --dense"),
        (["apply", "x.gguf", "--dry-run", "--requantise", "Q8_0"], "'Q8_0' is not GLOB=TYPE"),
        (["apply", "x.gguf", "--dry-run", "--requantise", "*=F16", *NOISE], "--requantise cannot be combined"),
        (["merge", "a.gguf", "b.gguf", "--seed", "0", "--dry-run"], "--seed needs --crossover"),
        (["merge", "a", "b", "--crossover", "--weights", "1", "--dry-run"], "--weights cannot be combined"),
        (["merge", "a", "b", "c", "--crossover", "--dry-run"], "--crossover takes two files"),
        (["merge", "a.gguf", "--dry-run"], "the following arguments are required: B"),
        (["verify", "x.gguf", *NOISE], "edits need --against"),
        (["verify", "x.gguf", "--against", "y.gguf"], "give one of --recipe, --seeded, --set, --dense"),
        (["verify", "x.gguf", "--against", "y.gguf", *NOISE], "--seeded needs --seed here"),
        (["diff", "a.gguf", "b.gguf", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_wrong_usage(vboot: Vboot, words: list[str], why: str) -> None:
    assert vboot("surgeon", *words) == 2
    assert why in vboot.last_error()


def test_failures_are_one_sentence(vboot: Vboot, model: Path) -> None:
    assert vboot("surgeon", "apply", model, "--set", "hw.mmio[0]=1", "-o", "out.gguf") == 1
    assert vboot.err.count("\n") == 1
    assert "'hw.mmio' is protected (code 1002)" in vboot.err
    error = vboot.json("surgeon", "diff", model, "gone.gguf", code=1)["error"]
    assert error["message"] == "gone.gguf cannot be read: No such file or directory; check the path"
    Path("bad.gguf").write_bytes(model.read_bytes()[:1000])
    assert vboot("surgeon", "verify", "bad.gguf") == 1
    assert vboot.err.startswith("vboot: error: bad.gguf: R")
    assert not Path("out.gguf").exists()
