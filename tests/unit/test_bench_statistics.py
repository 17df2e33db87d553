from __future__ import annotations

import itertools
import json
import mmap
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.gguf_writer import Model
from tests.bench.gguf_files import synthetic, write_random, write_sparse
from tests.bench.guest.python_init import read_head
from tests.bench.python_archive import parse_ldd
from tests.bench.report import quantity, render, render_plain
from tests.bench.results import BenchFinding, Case, Result, Unit, at_least, at_most, from_json, to_json
from tests.bench.sampling import alternate
from tests.bench.statistics import Summary, growth_exponent, paired_ratio, summarise
from tests.bench.timed_child import TimedChild
from vboot.errors import ToolError
from vboot.gguf import read_layout

costs = st.floats(1e-9, 1e9)


def test_a_summary_is_median_and_extremes() -> None:
    assert summarise([3.0, 1.0, 10.0]) == Summary(median=3.0, min=1.0, max=10.0, count=3)
    assert summarise([1.0, 2.0, 4.0, 8.0]).median == 3.0
    with pytest.raises(ValueError, match="median"):
        summarise([])


def test_load_that_hits_both_of_a_pair_leaves_their_ratio_alone() -> None:
    ours, load = [1.0, 1.0, 1.0, 1.0, 1.0], [1, 1, 9, 1, 7]
    slowed = [cost * factor for cost, factor in zip(ours, load, strict=True)]
    peer = [2 * cost for cost in slowed]
    assert paired_ratio(peer, slowed) == 2.0


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=20))
@settings(derandomize=True, deadline=None)
def test_a_paired_ratio_lies_between_the_ratios(pairs: list[tuple[float, float]]) -> None:
    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= paired_ratio(*zip(*pairs, strict=True)) <= max(ratios)


@pytest.mark.parametrize(("numerators", "denominators"), [([1.0], [0.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_a_ratio_of_invalid_samples_is_refused(numerators: list[float], denominators: list[float]) -> None:
    with pytest.raises(ValueError, match=r"denominators|argument|median"):
        paired_ratio(numerators, denominators)


@given(st.floats(-1, 3), st.floats(1e-6, 1e6), st.integers(1, 1000), st.integers(2, 1000))
@settings(derandomize=True, deadline=None)
def test_growth_gives_back_the_power(power: float, factor: float, size: int, step: int) -> None:
    points = [(float(n), factor * n**power) for n in (size, size * step)]
    assert growth_exponent(points[0], points[1]) == pytest.approx(power, abs=1e-6)


def test_growth_needs_two_sizes_and_costs() -> None:
    for points in (((1, 1), (1, 2)), ((0, 1), (1, 2)), ((1, 0), (2, 2))):
        with pytest.raises(ValueError, match="growth cannot be computed"):
            growth_exponent(*points)


def test_contenders_take_turns_and_begin_in_turns() -> None:
    calls: list[str] = []
    numbers = itertools.count()

    def contender(name: str) -> int:
        calls.append(name)
        return next(numbers)

    samples = alternate({"a": lambda: contender("a"), "b": lambda: contender("b")}, rounds=2, warm_up=1)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": (3, 4), "b": (2, 5)}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00123, "s", "1.23 ms"),
        (61.0, "s", "61 s"),
        (1500.0, "s", "1500 s"),
        (2.5e-7, "s", "250 ns"),
        (0.0, "s", "0 ns"),
        (1_870_000, "bytes", "1.87 MB"),
        (12, "bytes", "12 bytes"),
        (4.5e8, "bytes/s", "450 MB/s"),
    ],
)
def test_quantities_are_short(value: float, unit: Unit, text: str) -> None:
    assert quantity(value, unit) == text


def result() -> Result:
    case = Case("open | close", "s", {"ours": (0.001, 0.002, 0.003), "peer": (0.004, 0.002, 0.030)})
    findings = (
        at_most("ours", 0.002, 0.001, shown=lambda value: quantity(value, "s")),
        at_least("times", case.ratio("peer"), 2.0, shown=str),
        BenchFinding("growth", "n^2"),
    )
    return Result("Opening", "How it was done.", (case,), findings, {"peer": "1.0"})


def test_the_page_shows_host_goals_and_every_contender() -> None:
    page = render([result()], host={"CPU": "a fast one"})
    assert "| CPU | a fast one |" in page
    assert "| Opening | ours | 2 ms | at most 1 ms | **not met** |" in page
    assert "| Opening | times | 4.0 | at least 2.0 | met |" in page
    assert r"| open \| close | ours | 2 ms | 1 ms | 3 ms | 3 |  |" in page
    assert r"| open \| close | peer | 4 ms | 2 ms | 30 ms | 3 | 4 |" in page
    assert "- growth: n^2\n" in page


def test_the_terminal_output_has_the_same_values() -> None:
    lines = render_plain(result()).splitlines()
    assert lines[0] == "Opening"
    assert "  open | close | peer | 4 ms | 2 ms | 30 ms | 3 | 4" in lines
    assert "  ours: 2 ms (goal: at most 1 ms, NOT met)" in lines


def test_the_json_holds_every_sample_and_verdict() -> None:
    data = to_json(result())
    peer = data["cases"][0]["contenders"]["peer"]
    assert peer["samples"] == [0.004, 0.002, 0.030]
    assert (peer["median"], peer["ratio_to_ours"]) == (0.004, 4.0)
    assert [finding["met"] for finding in data["findings"]] == [False, True, None]


def test_a_result_comes_back_from_its_json_and_says_when_it_was_measured() -> None:
    alone = replace(result(), measured="date today, load 3")
    for original in (result(), alone):
        assert from_json(json.loads(json.dumps(to_json(original)))) == original
    assert "Measured in a run of its own: date today, load 3." in render([alone], host={})
    assert "Measured in a run" not in render([result()], host={})


ANSWER = "import sys\nfor line in sys.stdin: print(2_000_000, len(line.strip()), flush=True)"


def test_a_timed_child_answers_again_and_again() -> None:
    with TimedChild([sys.executable, "-c", ANSWER]) as child:
        assert [child.ask(Path("abc")), child.ask(Path("abcde"))] == [(0.002, 3), (0.002, 5)]


def test_a_timed_child_that_ends_is_reported_with_its_error_output() -> None:
    with (
        TimedChild([sys.executable, "-c", "import sys; input(); sys.exit('no such thing')"]) as child,
        pytest.raises(ToolError, match="no such thing"),
    ):
        child.ask(Path("abc"))


def test_a_missing_program_is_reported() -> None:
    with pytest.raises(ToolError, match="no-such-program cannot be run"):
        TimedChild(["no-such-program"])


@pytest.mark.parametrize("write", [write_sparse, write_random])
def test_synthetic_models_have_the_tensors_asked_for(tmp_path: Path, write: Callable[[Path, Model], None]) -> None:
    path = tmp_path / "model.gguf"
    write(path, synthetic(25, rows=2, columns=32, tokens=5))
    layout = read_layout(memoryview(path.read_bytes()), name="model")
    assert (len(layout.metadata), len(layout.tensors)) == (30, 25)
    assert layout.tensors[-1].offset + layout.tensors[-1].size <= path.stat().st_size
    assert {"token_embd.weight", "blk.0.attn_q.weight", "blk.2.attn_v.weight"} <= {t.name for t in layout.tensors}
    assert write is write_sparse or any(path.read_bytes()[layout.tensors[0].offset :])


def test_the_init_in_python_reads_the_same_head(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sparse(path, synthetic(25, rows=2, columns=32, tokens=5))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        head = read_head(model)
    layout = read_layout(memoryview(path.read_bytes()), name="model")
    start = layout.tensors[0].offset
    assert head == {t.name: (t.dims, t.type, t.offset - start) for t in layout.tensors}


paths = st.text("abc.-/_0123", min_size=1, max_size=20).map(lambda text: Path("/" + text))


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9.]+", fullmatch=True), paths, st.integers(0, 2**47)), max_size=5))
@settings(derandomize=True, deadline=None)
def test_output_of_ldd_is_parsed(libraries: list[tuple[str, Path, int]]) -> None:
    text = "\tlinux-vdso.so.1 (0x00007fff0)\n"
    text += "".join(f"\t{name} => {path} ({address:#x})\n" for name, path, address in libraries)
    text += "\t/lib64/ld-linux-x86-64.so.2 (0x7f00)\n"
    assert parse_ldd(text) == (*(path for _, path, _ in libraries), Path("/lib64/ld-linux-x86-64.so.2"))


@given(st.text())
@settings(derandomize=True, deadline=None)
def test_any_output_of_ldd_is_parsed_without_error(text: str) -> None:
    assert all(path.is_absolute() for path in parse_ldd(text))
