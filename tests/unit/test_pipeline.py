from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder.cache import RECORD_NAME, open_cache, parse_record
from builder.pipeline import StepResult, run
from builder.steps import Context, Facts, Step
from vboot.errors import InputError, VbootError


@dataclass
class Recorder:
    """A reporter that records all calls."""

    events: list[tuple[str, ...]] = field(default_factory=list)

    def start(self, step: str, reason: str) -> None:
        self.events.append(("start", step, reason))

    def progress(self, step: str, phase: str, done: int, total: int) -> None:
        self.events.append(("progress", step, phase, str(done), str(total)))

    def skip(self, step: str, reason: str) -> None:
        self.events.append(("skip", step, reason))

    def done(self, step: str, seconds: float) -> None:
        self.events.append(("done", step))

    def fail(self, step: str, error: str) -> None:
        self.events.append(("fail", step, error))


def concatenate(
    name: str, inputs: Sequence[Path], output: Path, *, parameters: Mapping[str, object] | None = None
) -> Step:
    def work(context: Context) -> Facts:
        context.progress("concatenating", 1, 2)
        output.write_bytes(b"".join(path.read_bytes() for path in inputs))
        return {"inputs": len(inputs)}

    return Step(name, work, inputs=tuple(inputs), parameters=parameters or {}, outputs=(output,))


def build(folder: Path, steps: Sequence[Step], *, dry_run: bool = False) -> tuple[StepResult, ...]:
    # The clock of file stamps ticks every few milliseconds; a person is never as fast as a test.
    time.sleep(0.03)
    with open_cache(folder / "out", writing=not dry_run) as cache:
        return run(steps, cache=cache, dry_run=dry_run, reporter=Recorder())


def reasons(results: Sequence[StepResult]) -> dict[str, str]:
    return {result.name: result.reason for result in results if result.ran}


@pytest.fixture
def chain(tmp_path: Path) -> list[Step]:
    """a + b -> ab -> abab."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    first = concatenate("first", [tmp_path / "a", tmp_path / "b"], tmp_path / "ab", parameters={"type": "F16"})
    return [first, concatenate("second", [tmp_path / "ab", tmp_path / "ab"], tmp_path / "abab")]


def test_steps_run_once(tmp_path: Path, chain: list[Step]) -> None:
    assert reasons(build(tmp_path, chain)) == {"first": "ab is missing", "second": "abab is missing"}
    assert (tmp_path / "abab").read_text() == "abab"
    again = build(tmp_path, chain)
    assert reasons(again) == {}
    assert [result.reason for result in again] == ["up to date", "up to date"]


def test_facts_outlive_the_run(tmp_path: Path, chain: list[Step]) -> None:
    seen: list[Facts] = []

    def look(context: Context) -> Facts:
        seen.append(context.facts["first"])
        (tmp_path / "look").write_text(context.sha256(tmp_path / "ab"))
        return {}

    assert build(tmp_path, chain)[0].facts == {"inputs": 2}
    results = build(tmp_path, [*chain, Step("look", look, outputs=(tmp_path / "look",))])
    assert results[0].facts == {"inputs": 2}
    assert seen == [{"inputs": 2}]


def edit(path: Path) -> None:
    path.write_text("x")


def edit_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"Z")


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("a", edit, {"first": "a has changed", "second": "ab has changed"}),
        ("ab", edit, {"first": "ab has changed"}),
        ("abab", edit, {"second": "abab has changed"}),
        ("abab", edit_in_place, {"second": "abab has changed"}),
        ("abab", truncate, {"second": "abab has changed"}),
        ("abab", Path.unlink, {"second": "abab is missing"}),
        ("ab", Path.unlink, {"first": "ab is missing"}),
        ("a", Path.touch, {}),
        ("abab", Path.touch, {}),
    ],
)
def test_what_changed_is_made_again(
    tmp_path: Path, chain: list[Step], name: str, change: Callable[[Path], None], expected: dict[str, str]
) -> None:
    build(tmp_path, chain)
    change(tmp_path / name)
    assert reasons(build(tmp_path, chain)) == expected
    assert reasons(build(tmp_path, chain)) == {}
    assert (tmp_path / "abab").read_bytes() == (tmp_path / "ab").read_bytes() * 2


def test_changed_parameter_is_named(tmp_path: Path, chain: list[Step]) -> None:
    build(tmp_path, chain)
    chain[0] = replace(chain[0], parameters={"type": "Q8_0"})
    assert reasons(build(tmp_path, chain)) == {"first": 'type was "F16", is "Q8_0"'}
    chain[0] = replace(chain[0], parameters={"type": "Q8_0", "key": None})
    assert reasons(build(tmp_path, chain)) == {"first": "key was not set, is none"}


def test_changed_list_of_inputs_is_seen(tmp_path: Path, chain: list[Step]) -> None:
    build(tmp_path, chain)
    (tmp_path / "c").write_text("c")
    wider = concatenate("first", [*chain[0].inputs, tmp_path / "c"], tmp_path / "ab", parameters={"type": "F16"})
    assert reasons(build(tmp_path, [wider])) == {"first": "c is a new input"}
    assert reasons(build(tmp_path, chain[:1])) == {"first": "an input is no longer used"}


def test_same_step_with_another_output_is_remembered_apart(tmp_path: Path, chain: list[Step]) -> None:
    other = concatenate("first", chain[0].inputs, tmp_path / "other", parameters={"type": "F16"})
    build(tmp_path, chain)
    assert reasons(build(tmp_path, [other])) == {"first": "other is missing"}
    assert reasons(build(tmp_path, [*chain, other])) == {}


def test_dry_run_says_what_a_run_would_do_and_does_nothing(tmp_path: Path, chain: list[Step]) -> None:
    planned = build(tmp_path, chain, dry_run=True)
    assert reasons(planned) == {"first": "ab is missing", "second": "abab is missing"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    build(tmp_path, chain)
    edit(tmp_path / "a")
    assert reasons(build(tmp_path, chain, dry_run=True)) == {"first": "a has changed", "second": "ab will be rebuilt"}
    assert (tmp_path / "ab").read_text() == "ab"


def test_missing_input(tmp_path: Path, chain: list[Step]) -> None:
    (tmp_path / "b").unlink()
    with pytest.raises(InputError, match=r"step first needs .*/b, which does not exist"):
        build(tmp_path, chain)
    with pytest.raises(InputError, match="step first needs"):
        build(tmp_path, chain, dry_run=True)


def test_step_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VbootError, match=r"step idle ended without writing .*nothing"):
        build(tmp_path, [Step("idle", lambda _: {}, outputs=(tmp_path / "nothing",))])


def test_failed_step_stops_the_build_and_runs_again(tmp_path: Path, chain: list[Step]) -> None:
    build(tmp_path, chain)

    def fail(context: Context) -> Facts:
        (tmp_path / "ab").write_text("half")
        raise InputError("no")

    failing = [replace(chain[0], run=fail, parameters={"type": "F32"}), chain[1]]
    with pytest.raises(InputError, match="no"):
        build(tmp_path, failing)
    assert (tmp_path / "abab").read_text() == "abab"
    assert "first" in reasons(build(tmp_path, chain))
    assert (tmp_path / "ab").read_text() == "ab"


def test_finished_steps_are_remembered_when_a_later_one_fails(tmp_path: Path, chain: list[Step]) -> None:
    def fail(context: Context) -> Facts:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, [chain[0], replace(chain[1], run=fail)])
    assert list(reasons(build(tmp_path, chain))) == ["second"]


def test_finished_step_is_on_the_disk_before_the_next_begins(tmp_path: Path, chain: list[Step]) -> None:
    def look(context: Context) -> Facts:
        _, steps = parse_record((tmp_path / "out" / RECORD_NAME).read_bytes())
        (tmp_path / "abab").write_text(", ".join(steps))
        return {}

    build(tmp_path, [chain[0], replace(chain[1], run=look)])
    assert (tmp_path / "abab").read_text() == chain[0].id


def test_discovered_inputs_count(tmp_path: Path) -> None:
    included = tmp_path / "included.h"
    included.write_text("1")
    time.sleep(0.03)
    step = Step(
        "compile",
        lambda _: {"size": (tmp_path / "o").write_text(included.read_text())},
        outputs=(tmp_path / "o",),
        discovered=lambda: (included,),
    )
    build(tmp_path, [step])
    assert reasons(build(tmp_path, [step])) == {}
    included.write_text("2")
    assert reasons(build(tmp_path, [step])) == {"compile": "included.h has changed"}
    assert (tmp_path / "o").read_text() == "2"


def test_source_edited_while_it_is_compiled_is_compiled_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")

    def compile_slowly(context: Context) -> Facts:
        (tmp_path / "o").write_text(source.read_text())
        time.sleep(0.03)
        source.write_text("2")
        return {}

    step = Step("compile", compile_slowly, outputs=(tmp_path / "o",), discovered=lambda: (source,))
    build(tmp_path, [step])
    assert reasons(build(tmp_path, [step])) == {"compile": "source has changed"}


def test_the_reporter_gets_all_events_in_order(tmp_path: Path, chain: list[Step]) -> None:
    def fail(context: Context) -> Facts:
        raise InputError("broken")

    build(tmp_path, chain[:1])
    recorder = Recorder()
    failing = Step("failing", fail, outputs=(tmp_path / "never",))
    with open_cache(tmp_path / "out") as cache, pytest.raises(InputError):
        run([*chain, failing], cache=cache, reporter=recorder)
    assert recorder.events == [
        ("skip", "first", "up to date"),
        ("start", "second", "building, because abab is missing"),
        ("progress", "second", "concatenating", "1", "2"),
        ("done", "second"),
        ("start", "failing", "building, because never is missing"),
        ("fail", "failing", "broken"),
    ]


def test_unchanged_large_file_is_not_hashed_again(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(16 << 20))
    step = Step("size", lambda _: {"n": (tmp_path / "o").write_text("o")}, inputs=(large,), outputs=(tmp_path / "o",))
    hashed = []
    for _ in range(3):
        recorder = Recorder()
        with open_cache(tmp_path / "out") as cache:
            run([step], cache=cache, reporter=recorder)
        hashed.append(any("hashing large" in event for event in recorder.events))
    assert hashed == [True, False, False]
