"""The documents point at what exists: links, headings, and the paths that are named in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("spec/*.md"), *ROOT.glob("examples/*.md")])
NAMED_BY = {"ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "README.md"}
TOP = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"build", "dist"}


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings get."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> list[str]:
    """The targets of all links and pictures, without code."""
    text = re.sub(r"^    .*$|`[^`]*`", "", page.read_text("utf-8"), flags=re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (fragment and path.suffix == ".md" and fragment not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", sorted(NAMED_BY))
def test_paths_that_are_named_exist(name: str) -> None:
    """Words in code style that begin with a folder of the project; `*`, `NAME` and `...` stand for anything."""
    words = re.findall(r"`([\w./*<>-]+/[\w./*<>-]*)`", (ROOT / name).read_text("utf-8"))
    paths = [word for word in words if word.split("/")[0] in TOP and "target" not in word.split("/")]
    pattern = re.compile(r"[A-Z]{4,}|\.\.\.")
    assert [path for path in paths if not pattern.search(path) and not any(ROOT.glob(path.rstrip("/")))] == []
