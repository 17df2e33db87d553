"""Writes results for people: docs/benchmarks.md. Pure: results in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.results import Case, Result, Unit

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_VERDICTS = {True: "met", False: "**not met**", None: ""}


def render(results: Sequence[Result], *, host: Mapping[str, str]) -> str:
    """The whole page in Markdown."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`; do not edit. All contenders of a case did the same work in one run on one machine,"
        " in turns, sample by sample. `x ours` is the median over the turns of a contender's cost over ours: above 1"
        " ours costs less (of a rate: above 1 ours is slower). Every sample is in"
        " [benchmarks.json](benchmarks.json).",
        _table(("measured on", ""), host.items()),
        "## Goals",
        _table(("benchmark", "what", "measured", "goal", ""), _goals(results)),
    ]
    for result in results:
        parts += [f"## {result.title}", result.how, *_body(result)]
    return "\n\n".join(parts) + "\n"


def render_plain(result: Result) -> str:
    """One result as lines for a terminal."""
    lines = [f"{result.title}"]
    for case in result.cases:
        lines += [f"  {' | '.join(row)}" for row in _case_rows(case)]
    for finding in result.findings:
        goal = f" (goal: {finding.goal}, {'met' if finding.met else 'NOT met'})" if finding.goal else ""
        lines.append(f"  {finding.what}: {finding.measured}{goal}")
    return "\n".join(lines)


def quantity(value: float, unit: Unit) -> str:
    """A number with three digits and the unit that suits it: 0.00123 s is "1.23 ms"."""
    scales = _SECONDS if unit == "s" else _BYTES
    size, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    digits = f"{value / size:.3g}" if abs(value / size) < 1000 else f"{value / size:.0f}"
    return f"{digits} {name}{'/s' if unit == 'bytes/s' else ''}"


def _goals(results: Iterable[Result]) -> list[tuple[str, ...]]:
    return [
        (result.title, finding.what, finding.measured, finding.goal, _VERDICTS[finding.met])
        for result in results
        for finding in result.findings
        if finding.goal is not None
    ]


def _body(result: Result) -> list[str]:
    rows = [row for case in result.cases for row in _case_rows(case)]
    parts = [f"Measured in a run of its own: {result.measured}."] if result.measured else []
    parts += [_table(("case", "contender", "median", "min", "max", "samples", "x ours"), rows)]
    facts = [f"- {finding.what}: {finding.measured}" for finding in result.findings if finding.goal is None]
    if facts:
        parts.append("\n".join(facts))
    if result.versions:
        parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in result.versions.items()) + ".")
    return parts


def _case_rows(case: Case) -> list[tuple[str, ...]]:
    rows = []
    for name in case.samples:
        summary = case.summary(name)
        times = "" if name == case.ours else f"{case.ratio(name):.3g}"
        amounts = (quantity(value, case.unit) for value in (summary.median, summary.min, summary.max))
        rows.append((case.name, name, *amounts, str(summary.count), times))
    return rows


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
