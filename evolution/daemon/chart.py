"""Charts as SVG text: panels above one another over one horizontal axis. Pure.

Values that are not finite or too large to be scaled are left out; lines are interrupted there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from xml.etree import ElementTree

Point: TypeAlias = tuple[float, float]
Mark: TypeAlias = Literal["line", "steps", "dot", "cross"]
"""`steps` holds a value until the next; `dot` and `cross` stand alone."""

WIDTH = 800
POINTS_MOST = 2000
"""The most points of a series, more than the chart has pixels; of longer ones the extremes are drawn."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 34, 44
_GAP = 26
_LARGEST = 1e100
_TICKS = 5
_GREY, _PALE = "#555555", "#dddddd"


@dataclass(frozen=True)
class Series:
    """Points (x, y) with a label and an SVG colour; lines join them in the order given."""

    label: str
    points: Sequence[Point]
    colour: str
    mark: Mark = "line"


@dataclass(frozen=True)
class Panel:
    """Series with one vertical axis; its range includes the values of `shows`.

    A logarithmic axis leaves out values that are not above 0.
    """

    y_label: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    height: int = 200
    shows: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to the pixels `start`..`end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (self._flat(number) for number in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def chart(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """An SVG document."""
    shown = [_drawable(panel) for panel in panels]
    height = _TOP + sum(panel.height for panel in shown) + _GAP * (len(shown) - 1) + _BOTTOM
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {height}",
            "width": f"{WIDTH}",
            "height": f"{height}",
            "font-family": "sans-serif",
            "font-size": "12",
            "role": "img",
        },
    )
    _text_element(root, "title", title)
    ElementTree.SubElement(root, "rect", {"width": f"{WIDTH}", "height": f"{height}", "fill": "white"})
    _label(root, _LEFT, 20, title, anchor="start", size=15)
    x_values = [x for panel in shown for series in panel.series for x, _ in series.points]
    x_low, x_high = value_range(x_values)
    across = Scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    top = float(_TOP)
    for panel in shown:
        _draw_panel(root, panel, across, top)
        top += panel.height + _GAP
    _draw_x_ticks(root, across, height - _BOTTOM)
    _label(root, (across.start + across.end) / 2, height - 10, x_label, anchor="middle")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value, widened if they are equal; 0 to 1 if there are none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """About `count` round values from low to high: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def thin(points: Sequence[Point], most: int = POINTS_MOST) -> list[Point]:
    """At most `most` of these points, in their order: the lowest and the highest of each section."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept: list[Point] = []
    for number in range(stretches):
        stretch = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        ends = {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
        kept += [points[at] for at in sorted(ends)]
    return kept


def _drawable(panel: Panel) -> Panel:
    """The panel with lines split where a value cannot be drawn, and thinned."""
    least = 1 / _LARGEST if panel.logarithmic else -_LARGEST
    parts: list[Series] = []
    for series in panel.series:
        runs: list[list[Point]] = [[]]
        for x, y in series.points:
            if abs(x) <= _LARGEST and least <= y <= _LARGEST:  # False for nan
                runs[-1].append((x, y))
            elif runs[-1]:
                runs.append([])
        parts += [replace(series, points=thin(run, max(2, POINTS_MOST // len(runs)))) for run in runs if run]
    return replace(panel, series=tuple(parts))


def _draw_panel(root: ElementTree.Element, panel: Panel, across: Scale, top: float) -> None:
    # Values that are the same are widened by half of themselves, so a logarithmic axis never reaches 0.
    low, high = value_range([*(y for series in panel.series for _, y in series.points), *panel.shows])
    # The margin keeps marks off the edges.
    margin = 0.05 * panel.height
    up = Scale(low, high, top + panel.height - margin, top + margin, panel.logarithmic and bool(panel.series))
    for tick, text in _y_ticks(up):
        y = up(tick)
        _line(root, (across.start, y), (across.end, y), _PALE)
        _label(root, across.start - 6, y + 4, text, anchor="end")
    corner = (across.start, top + panel.height)
    _line(root, (across.start, top), corner, _GREY)
    _line(root, corner, (across.end, top + panel.height), _GREY)
    middle = top + panel.height / 2
    turned = _label(root, 14, middle, panel.y_label, anchor="middle")
    turned.set("transform", f"rotate(-90 14 {middle:.1f})")
    if not panel.series:
        _label(root, (across.start + across.end) / 2, middle, "nothing to show yet", anchor="middle")
    for series in panel.series:
        _draw_series(root, series, [(across(x), up(y)) for x, y in series.points])
    _draw_legend(root, panel.series, across.end, top)


def _draw_series(root: ElementTree.Element, series: Series, places: Sequence[Point]) -> None:
    if series.mark in ("line", "steps"):
        _path(root, _joined(places, steps=series.mark == "steps"), series.colour)
        # A line of one point would not be seen.
        if len(places) > 1:
            return
    if series.mark == "cross":
        marks = " ".join(f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6" for x, y in places)
        _path(root, marks, series.colour)
        return
    # A line of no length with a round end is a dot: one element for all of them keeps the file small.
    dots = _path(root, " ".join(f"M{x:.1f} {y:.1f}h0" for x, y in places), series.colour)
    dots.set("stroke-width", "4")
    dots.set("stroke-linecap", "round")


def _joined(places: Sequence[Point], *, steps: bool) -> str:
    (x, y), *others = places
    words = [f"M{x:.1f} {y:.1f}"]
    for x, y in others:
        words += [f"H{x:.1f}", f"V{y:.1f}"] if steps else [f"L{x:.1f} {y:.1f}"]
    return "".join(words)


def _draw_legend(root: ElementTree.Element, series: Sequence[Series], right: float, top: float) -> None:
    # A label may stand for several pieces of a broken line.
    labels = dict.fromkeys((one.label, one.colour) for one in series)
    text = _label(root, right - 4, top - 5, "", anchor="end")
    for number, (label, colour) in enumerate(labels):
        part = _text_element(text, "tspan", label)
        part.set("fill", colour)
        if number:
            part.set("dx", "12")


def _draw_x_ticks(root: ElementTree.Element, across: Scale, y: float) -> None:
    marks = ticks(across.low, across.high)
    for tick, text in zip(marks, _texts(marks), strict=True):
        x = across(tick)
        _line(root, (x, y), (x, y + 5), _GREY)
        _label(root, x, y + 18, text, anchor="middle")


def _y_ticks(up: Scale) -> list[tuple[float, str]]:
    if up.logarithmic:
        powers = range(math.ceil(math.log10(up.low) - 1e-9), math.floor(math.log10(up.high) + 1e-9) + 1)
        every = max(1, len(powers) // _TICKS)
        decades = [(10.0**power, f"{10.0**power:g}") for power in powers[::every]]
        if len(decades) > 1:
            return decades
    marks = ticks(up.low, up.high)
    return list(zip(marks, _texts(marks), strict=True))


def _texts(marks: Sequence[float]) -> list[str]:
    """The shortest texts that distinguish these evenly spaced values."""
    step = marks[1] - marks[0] if len(marks) > 1 else abs(marks[0]) or 1.0
    if step >= 1e-6 and max(map(abs, marks)) < 1e7:
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{mark:.{decimals}f}" for mark in marks]
    return [f"{mark:.12g}" for mark in marks]


def _line(root: ElementTree.Element, start: Point, end: Point, colour: str) -> None:
    _path(root, f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}", colour)


def _path(root: ElementTree.Element, drawn: str, colour: str) -> ElementTree.Element:
    return ElementTree.SubElement(root, "path", {"d": drawn, "stroke": colour, "fill": "none"})


def _label(
    root: ElementTree.Element, x: float, y: float, text: str, *, anchor: str, size: int | None = None
) -> ElementTree.Element:
    element = _text_element(root, "text", text)
    element.attrib |= {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    if size is not None:
        element.set("font-size", f"{size}")
    return element


def _text_element(root: ElementTree.Element, tag: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(root, tag)
    element.text = _allowed(text)
    return element


def _allowed(text: Iterable[str]) -> str:
    """The text with characters that XML does not allow (control characters, lone surrogates) replaced by `?`."""
    return "".join(char if char.isprintable() else "?" for char in text)
