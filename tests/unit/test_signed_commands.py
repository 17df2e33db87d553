"""Signed changes on the command line: `--key`, `keygen`, `compose --mutation-key`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from image.compose import compose
from tests.support.local_machine import local_machine
from tests.support.vboot import Vboot
from vboot.keys import load_private_key, load_public_key

SET = ("--set", "token_embd.weight[0]=0.5", "--confidence", "0.9")


@contextlib.contextmanager
def served(folder: Path, model: Path) -> Iterator[Path]:
    with local_machine(folder, model=model) as local:
        yield local.socket


def test_the_command_line_signs_with_key(vboot: Vboot, tmp_path: Path, signed_model: Path, keys: Path) -> None:
    key = keys / "mutation.key"
    with served(tmp_path, signed_model) as socket:
        for words in (("mutate", socket, *SET), ("rollback", socket, "--to", "0"), ("promote", socket)):
            assert vboot(*words) == 1
            assert vboot.last_error() == "vboot: error: this machine takes signed changes only; give --key FILE"
        assert vboot.json("mutate", socket, *SET, "--key", key)["generation"] == 1
        assert vboot.json("promote", socket, "--key", key) == {"promoted": 1, "durable": False}
        assert vboot("mutate", socket, "--set", "token_embd.weight[1]=0.5", "--confidence", "1", "--dry-run") == 1
        assert "the machine takes signed changes only" in vboot.last_error()
        verified = ("--set", "token_embd.weight[1]=0.5", "--confidence", "1", "--verify", "--key", key)
        assert vboot.json("mutate", socket, *verified)["generation"] == 2
        assert vboot.json("rollback", socket, "--to", "0", "--key", key)["generation"] == 3
        assert vboot("apply", socket, signed_model, "--key", key) == 0, vboot.err
        assert vboot("mutate", socket, *SET, "--key", keys / "code.key") == 1
        assert "signed by another key" in vboot.last_error()


def test_a_key_that_cannot_sign_is_told_in_one_sentence(
    vboot: Vboot, tmp_path: Path, signed_model: Path, keys: Path
) -> None:
    encrypted = tmp_path / "encrypted.pem"
    protection = BestAvailableEncryption(b"secret")
    private = load_private_key(keys / "mutation.key")
    encrypted.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    wrong = {
        keys / "mutation.pub": "is a public one; give the private key of its pair",
        encrypted: "is encrypted; decrypt it with",
        signed_model: "holds no PEM key; make one with `vboot keygen DIR`",
        tmp_path / "none": "cannot be read: No such file or directory",
    }
    with served(tmp_path, signed_model) as socket:
        for file, why in wrong.items():
            assert vboot("mutate", socket, *SET, "--key", file) == 1
            assert why in vboot.last_error()
            assert len(vboot.err.splitlines()) == 1


def test_a_key_for_a_machine_that_needs_none_is_refused(vboot: Vboot, tmp_path: Path, keys: Path) -> None:
    with local_machine(tmp_path) as local:
        assert vboot("mutate", local.socket, *SET, "--key", keys / "mutation.key") == 1
        assert "this machine takes changes without a signature; leave out --key" in vboot.last_error()


def test_keygen_writes_two_pairs_and_overwrites_none(vboot: Vboot, tmp_path: Path) -> None:
    made = vboot.json("keygen", tmp_path / "keys")
    assert made["files"] == ["code.key", "code.pub", "mutation.key", "mutation.pub"]
    public = load_public_key(str(tmp_path / "keys" / "mutation.pub")).public_bytes_raw().hex()
    assert made["public_keys"]["mutation"] == public
    assert vboot("keygen", tmp_path / "keys") == 1
    assert "code.key exists, and no key is overwritten" in vboot.last_error()


def test_a_composed_file_holds_the_key_and_says_so(vboot: Vboot, tmp_path: Path, keys: Path) -> None:
    public = load_public_key(str(keys / "mutation.pub")).public_bytes_raw().hex()
    words = ("compose", "--model", "tiny", "--mutation-key", keys / "mutation.pub", "-o", tmp_path / "a.gguf")
    assert vboot(*words) == 0, vboot.err
    compose("tiny", tmp_path / "b.gguf", mutation_key=bytes.fromhex(public))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert vboot.json("inspect", tmp_path / "a.gguf")["capabilities"]["mutation_key"] == public
    assert vboot("inspect", tmp_path / "a.gguf") == 0
    assert f"required, with the key {public}" in vboot.out
    compose(str(tmp_path / "a.gguf"), tmp_path / "c.gguf")
    assert vboot.json("inspect", tmp_path / "c.gguf")["capabilities"]["mutation_key"] == public


def test_the_shell_signs_with_key(
    vboot: Vboot, tmp_path: Path, signed_model: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "mutate --set token_embd.weight[0]=0.5 --confidence 0.9\npromote\n"
    with served(tmp_path, signed_model) as socket:
        monkeypatch.setattr(sys, "stdin", io.StringIO(script))
        assert vboot("shell", socket, "--key", keys / "mutation.key") == 0, vboot.err
        monkeypatch.setattr(sys, "stdin", io.StringIO("rollback 0\n"))
        assert vboot("shell", socket) == 1
        assert "this machine takes signed changes only; give --key FILE" in vboot.err


@pytest.mark.parametrize("where", ["socket", "in_process"])
def test_evolve_signs_with_key(vboot: Vboot, tmp_path: Path, signed_model: Path, keys: Path, where: str) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"query": f"ship {number}", "document": f"the ship of {number}"} for number in range(160)]
    pairs.write_text("\n".join(map(json.dumps, lines)))
    few = ("--tier", "output", "--batch", "4", "--generations", "2", "--watch", "2", "--option", "pairs=2")
    words = ("--model", signed_model, "--data", pairs, *few, "--no-report", "--folder", tmp_path / "run")
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(served(tmp_path, signed_model)) if where == "socket" else "--in-process"
        outcome = vboot.json("evolve", target, *words, "--key", keys / "mutation.key")
        assert (outcome["generations"], outcome["accepted"] > 0) == (2, True)
