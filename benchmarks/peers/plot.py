"""A plot as SVG: panels side by side, lines over logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 440, 360, 60, 84, 20, 50
_CENTRED, _TO_THE_LEFT = 'text-anchor="middle"', 'text-anchor="end"'
_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#8d6a9f", "#7a7a7a")


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes; ``lines`` by what the legend calls them. All values are above zero."""

    title: str
    x_title: str
    lines: Mapping[str, Points]


class _Axis:
    """Maps values to pixels, by their logarithm, over whole decades."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = floor(log10(min(values))), ceil(log10(max(values)))
        self.decades = range(low, max(high, low + 1) + 1)
        self._begin, self._scale = begin, (end - begin) / (len(self.decades) - 1)

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self._begin + (log10(value) - self.decades[0]) * self._scale


def svg(panels: Sequence[Panel]) -> str:
    """Return the drawing."""
    size = f'width="{_WIDTH * len(panels)}" height="{_HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        return [_text(_LEFT, _TOP, f"{panel.title}: nothing was measured")]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x, y = _Axis([p[0] for p in points], _LEFT, right), _Axis([p[1] for p in points], bottom, _TOP)
    parts = [
        _text(_LEFT, 20, panel.title, 'font-weight="bold"'),
        _text((_LEFT + right) / 2, _HEIGHT - 12, panel.x_title, _CENTRED),
    ]
    for decade in x.decades:
        at = x.at(10.0**decade)
        parts += [_line(at, _TOP, at, bottom), _text(at, bottom + 16, f"{10.0**decade:,g}", _CENTRED)]
    for decade in y.decades:
        at = y.at(10.0**decade)
        parts += [_line(_LEFT, at, right, at), _text(_LEFT - 6, at + 4, f"{10.0**decade:g}", _TO_THE_LEFT)]
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in line]
        parts.append(_text(_LEFT, 36 + 14 * number, name, f'fill="{colour}"'))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{text}</text>'
