"""Writes the tables and the plot of the studies into docs: `python -m tests.studies.write_up`. Other text is kept.

docs/feasibility.md and docs/evolution.md hold, between `<!-- NAME -->` and `<!-- end -->`, what is made here of
docs/feasibility.json and docs/evolution.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evolution.daemon.chart import Panel, Series, chart

_DOCS = Path("docs")
_COLOURS = ("#d62728", "#1f77b4", "#9467bd", "#2ca02c", "#8c564b", "#7f7f7f")


def main() -> None:
    """Rewrite the tables for which there are results."""
    if (path := _DOCS / "feasibility.json").is_file():
        found = json.loads(path.read_text())
        _fill(_DOCS / "feasibility.md", {"noise": _noise(found["noise"]), "search": _search(found["search"])})
    if (path := _DOCS / "evolution.json").is_file():
        runs = json.loads(path.read_text())["runs"]
        _fill(_DOCS / "evolution.md", {"results": _results(runs), "cost": _cost(runs)})
        (_DOCS / "evolution.svg").write_text(_plot(runs))


def _fill(path: Path, tables: dict[str, str]) -> None:
    text = path.read_text()
    for name, table in tables.items():
        begin = f"<!-- {name} -->\n"
        assert begin in text, f"{path} has no place for {name}"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    path.write_text(text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _noise(rows: Sequence[dict[str, Any]]) -> str:
    head = (
        "weights",
        "tier",
        "size",
        "loss, mean",
        "deviation",
        "best",
        "better",
        "neutral",
        "worse",
        "> 5 % worse",
        "apply",
    )
    return _table(head, (_noise_row(row) for row in rows))


def _noise_row(row: dict[str, Any]) -> list[str]:
    changes = [
        f"{row[name]:+.2%}" if name != "deviation" else f"{row[name]:.2%}" for name in ("mean", "deviation", "best")
    ]
    shares = [f"{row[name]:.0%}" for name in ("better", "neutral", "worse", "degraded")]
    apply = "" if row["apply_ms"] is None else f"{row['apply_ms']:g} ms"
    return [row["weights"], row["tier"], f"{row['size']:g}", *changes, *shares, apply]


def _search(rows: Sequence[dict[str, Any]]) -> str:
    head = ("weights", "tier", "evaluations", "seconds", "MRR@10", "recall@1", "loss")
    return _table(
        head,
        (
            [
                row["weights"],
                row["tier"],
                str(row["evaluations"]),
                f"{row['seconds']:g}",
                *(f"{row['before'][m]:.4f} → {row['after'][m]:.4f}" for m in ("mrr@10", "recall@1", "loss")),
            ]
            for row in rows
        ),
    )


def _results(runs: Sequence[dict[str, Any]]) -> str:
    head = (
        "weights",
        "search",
        "evaluations",
        "moves kept",
        "MRR@10 (95 %)",
        "change of MRR@10",
        "change of recall@1",
        "change of loss",
        "ours over it, MRR@10",
    )
    return _table(head, (_result_row(run) for run in runs))


def _result_row(run: dict[str, Any]) -> list[str]:
    end = run["curve"][-1]
    metrics = end["metrics"]
    return [
        run["weights"],
        run["contender"]["name"],
        str(end["evaluations"]),
        f"{run['accepted']} of {run['judged']}",
        _interval(metrics["mrr@10"]["after"]),
        *(_interval(metrics[name]["difference"], sign="+") for name in ("mrr@10", "recall@1", "loss")),
        _interval(run["first_over_this"]["mrr@10"], sign="+") if "first_over_this" in run else "",
    ]


def _interval(values: Sequence[float], *, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.4f}" for number in values)
    return f"{value} ({low} to {high})"


def _cost(runs: Sequence[dict[str, Any]]) -> str:
    head = ("weights", "search", "seconds", "evaluations a second", "outside evaluation")
    return _table(
        head,
        (
            [
                run["weights"],
                run["contender"]["name"],
                f"{run['seconds']:.0f}",
                f"{run['curve'][-1]['evaluations'] / run['seconds']:.2f}",
                f"{run['seconds_outside_evaluation'] / run['seconds_in_generations']:.1%}",
            ]
            for run in runs
        ),
    )


def _plot(runs: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(run["contender"]["name"] for run in runs))
    panels = []
    for weights in dict.fromkeys(run["weights"] for run in runs):
        series = tuple(
            Series(name, [(p["evaluations"], p["metrics"]["mrr@10"]["after"][0]) for p in run["curve"]], colour)
            for name, colour in zip(names, _COLOURS, strict=False)
            for run in runs
            if run["weights"] == weights and run["contender"]["name"] == name
        )
        panels.append(Panel(f"{weights}: MRR@10", series, height=260))
    return chart("Held-out pairs", "evaluations", panels)


if __name__ == "__main__":
    main()
