from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from license_expression import get_spdx_licensing
from referencing import Registry, Resource

from builder import sbom
from builder.sbom import Component
from image.compose import compose

FACTS = {
    "kernel": {"release": "6.1.0-57-cloud-amd64", "package": "linux-image-6.1.0-57 6.1.192-3", "sha256": "0" * 64},
    "executable": {"rustc": "rustc 1.95.0 (59807616e 2026-04-14)", "sha256": "1" * 64},
    "compose": {"source": "tiny"},
    "bootloader": {"package": "systemd-boot-efi 252.39-1~deb12u2", "loader_sha256": "2" * 64},
}


def schema(name: str) -> Any:
    return json.loads((files("cyclonedx.schema") / "_res" / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    """Of the schema that CycloneDX publishes, with the two that it refers to."""
    names = ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    others = [(schema(name)["$id"], Resource.from_contents(schema(name))) for name in names]
    return Draft7Validator(schema("bom-1.6.SNAPSHOT.schema.json"), registry=Registry().with_resources(others))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sbom") / "model.gguf"
    compose("tiny", path)
    return path


def document(model: Path) -> dict[str, Any]:
    parts = sbom.parts_of(FACTS, model=model, model_sha256="3" * 64)
    root = sbom.root_of("0.1.0", executable_sha256="1" * 64)
    made: dict[str, Any] = json.loads(sbom.render(root, [*sbom.crates(), *parts]))
    return made


def test_the_bill_of_an_image_is_valid_and_complete(model: Path, validator: Draft7Validator) -> None:
    made = document(model)
    assert [error.message for error in validator.iter_errors(made)] == []
    by_name = {part["name"]: part for part in made["components"]}
    assert {"linux", "glibc", "rust-std", "systemd-boot", "libc", "sha2", "ed25519-dalek"} <= set(by_name)
    assert by_name["linux"]["purl"] == "pkg:deb/debian/linux-image-6.1.0-57@6.1.192-3?arch=amd64"
    assert by_name["systemd-boot"]["version"] == "252.39-1~deb12u2"
    assert by_name["vector_boot tiny"]["type"] == "machine-learning-model"
    # They run when the executable is compiled, and are not in it.
    assert not {"syn", "quote", "proc-macro2", "proptest", "vector_boot"} & set(by_name)
    assert len({part["bom-ref"] for part in made["components"]}) == len(made["components"])


def test_every_license_is_an_spdx_expression(model: Path) -> None:
    licensing = get_spdx_licensing()
    for part in document(model)["components"]:
        for each in part.get("licenses", ()):
            assert licensing.validate(each["expression"], strict=True).errors == [], part["name"]
        assert part["type"] == "machine-learning-model" or part["licenses"], part["name"]


def test_a_broken_bill_would_be_noticed(model: Path, validator: Draft7Validator) -> None:
    made = document(model)
    made["components"][0]["type"] = "nonsense"
    assert list(validator.iter_errors(made)) != []


def test_the_same_image_has_the_same_bytes_and_another_one_another_number(model: Path) -> None:
    assert document(model) == document(model)
    root = sbom.root_of("0.1.0", executable_sha256="1" * 64)
    one, two = (json.loads(sbom.render(root, [Component("a", "1", "pkg:generic/a@1", sha256=each)])) for each in "ab")
    assert one["serialNumber"] != two["serialNumber"]


def test_what_cargo_lists_is_read_whatever_stands_behind_it() -> None:
    text = (
        "vector_boot v0.1.0 (/somewhere/with|a bar)|Apache-2.0\n"
        "libc v0.2.180|MIT OR Apache-2.0\nlibc v0.2.180|MIT OR Apache-2.0 (*)\n"
        "unicode-ident v1.0.27|(MIT OR Apache-2.0) AND Unicode-3.0\nold v1.0.0|MIT/Apache-2.0\n\n"
    )
    found = sbom.parse_tree(text, {("libc", "0.2.180"): "a", ("unicode-ident", "1.0.27"): "b", ("old", "1.0.0"): "c"})
    assert [(crate.name, crate.license) for crate in found] == [
        ("libc", "MIT OR Apache-2.0"),
        ("unicode-ident", "(MIT OR Apache-2.0) AND Unicode-3.0"),
        ("old", "MIT OR Apache-2.0"),
    ]
