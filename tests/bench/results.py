"""The results of a benchmark, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tests.bench.statistics import Summary, paired_ratio, summarise

Unit: TypeAlias = Literal["s", "bytes", "bytes/s"]


@dataclass(frozen=True)
class Setting:
    """How to run: `quick` takes fewer samples of less work, `folder` is for large files, `say` prints progress."""

    quick: bool
    folder: Path
    say: Callable[[str], None]

    def choose(self, *, full: int, quick: int) -> int:
        """One of two numbers."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Case:
    """One piece of work and what it cost each contender; the first contender is ours, the samples are paired."""

    name: str
    unit: Unit
    samples: Mapping[str, tuple[float, ...]]

    @property
    def ours(self) -> str:
        """The name of the first contender."""
        return next(iter(self.samples))

    def summary(self, contender: str | None = None) -> Summary:
        """The summary of a contender, else of ours."""
        return summarise(self.samples[contender or self.ours])

    def ratio(self, contender: str, *, over: str | None = None) -> float:
        """How many times the cost (of a rate: the rate) of `over`, else ours, the contender's is: median over pairs."""
        return paired_ratio(self.samples[contender], self.samples[over or self.ours])


@dataclass(frozen=True)
class BenchFinding:
    """A fact that follows from the samples; with a goal, whether it is met."""

    what: str
    measured: str
    goal: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Result:
    """A finished benchmark: what was done (`how`), the cases, the findings, and the versions of what took part.

    `measured`: when and where, if it was in another run than the others.
    """

    title: str
    how: str
    cases: tuple[Case, ...]
    findings: tuple[BenchFinding, ...]
    versions: Mapping[str, str]
    measured: str = ""


def at_most(what: str, value: float, limit: float, *, shown: Callable[[float], str]) -> BenchFinding:
    """A finding whose goal is a value of at most `limit`; `shown` writes both."""
    return BenchFinding(what, shown(value), f"at most {shown(limit)}", value <= limit)


def at_least(what: str, value: float, limit: float, *, shown: Callable[[float], str]) -> BenchFinding:
    """A finding whose goal is a value of at least `limit`; `shown` writes both."""
    return BenchFinding(what, shown(value), f"at least {shown(limit)}", value >= limit)


def to_json(result: Result) -> dict[str, Any]:
    """The result as JSON values: every sample, and what follows from them."""
    return {
        "title": result.title,
        "how": result.how,
        "versions": dict(result.versions),
        **({"measured": result.measured} if result.measured else {}),
        "cases": [_case_json(case) for case in result.cases],
        "findings": [vars(finding) for finding in result.findings],
    }


def _case_json(case: Case) -> dict[str, Any]:
    contenders = {
        name: {**vars(case.summary(name)), "ratio_to_ours": case.ratio(name), "samples": list(samples)}
        for name, samples in case.samples.items()
    }
    return {"name": case.name, "unit": case.unit, "contenders": contenders}


def from_json(data: Mapping[str, Any]) -> Result:
    """The result that `to_json` has written."""
    cases = tuple(
        Case(case["name"], case["unit"], {name: tuple(of["samples"]) for name, of in case["contenders"].items()})
        for case in data["cases"]
    )
    findings = tuple(BenchFinding(**finding) for finding in data["findings"])
    return Result(data["title"], data["how"], cases, findings, data["versions"], data.get("measured", ""))
