"""Plots as SVG text, drawn without any library so that a report is one file that needs nothing.

Colours of text and lines come from the page (`currentColor`, the classes `grid` and `whisker`), so that plots
fit a light and a dark one.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#84899a", "#3b82f6", "#10b981", "#d97706", "#8b5cf6", "#06b6d4", "#ec4899", "#ef4444")
"""Readable on white and on near black."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 56, 34, 22
LEGEND = 140  # units that the names beside the lines take
LINE = 16

Points = Sequence[tuple[float, float]]
Colours = Mapping[str, str]


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def number(value: float) -> str:
    """Return a number as people write it: three digits that count, no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")


def bars(values: Mapping[str, tuple[float, float, float]], unit: str, colour: Colours) -> str:
    """Return bars of (value, least, greatest); the whisker is the spread over rounds."""
    most = max((greatest for _, _, greatest in values.values()), default=0) or 1
    height, label = 24, 110
    width = WIDTH - label - 130
    parts: list[str] = []
    for row, (name, (value, least, greatest)) in enumerate(values.items()):
        y, long = row * height, max(0.0, width * value / most)
        parts.append(f'<text x="{label - 6}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{label}" y="{y + 4}" width="{long:.1f}" height="16" fill="{colour[name]}"/>')
        right = label + long
        if greatest > least:
            low, right = label + width * max(0, least) / most, label + width * greatest / most
            parts.append(f'<path class="whisker" d="M{low:.1f} {y + 12}H{right:.1f}"/>')
        right = max(right, label + long)
        parts.append(f'<text x="{right + 6:.1f}" y="{y + 16}">{number(value)} {escape(unit)}</text>')
    return _svg("".join(parts), height * max(1, len(values)) + 4)


def percentiles(curves: Mapping[str, Points], colour: Colours) -> str:
    """Return latency over percentile, both logarithmic: the tail is what matters."""
    farthest = max((x for points in curves.values() for x, _ in points), default=0)
    marks = [p for p in (0, 50, 90, 99, 99.9, 99.99) if p <= farthest]
    end = _tail(farthest) or 1

    def across(percentile: float) -> float:
        return _tail(percentile) / end

    lines = {name: [(across(x), y) for x, y in points] for name, points in curves.items()}
    return _lines(lines, [(across(p), f"{p:g} %") for p in marks], "ms", colour, logarithmic=True)


def _tail(percentile: float) -> float:
    return math.log10(1 / max(1e-4, 1 - percentile / 100))


def lines(curves: Mapping[str, Points], across: str, unit: str, colour: Colours) -> str:
    """Return ordinary lines; `across` names what the x axis counts."""
    most = max((x for points in curves.values() for x, _ in points), default=1) or 1
    marks = [(step / 4, f"{most * step / 4:g}{' ' + across if step == 4 else ''}") for step in range(5)]
    shares = {name: [(x / most, y) for x, y in points] for name, points in curves.items()}
    return _lines(shares, marks, unit, colour, logarithmic=False)


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Return round numbers from at most `low` to at least `high`."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 3 else (1,)
        every = [factor * 10.0**decade for decade in decades for factor in steps]
        first = max((tick for tick in every if tick <= low), default=every[0])
        last = min((tick for tick in every if tick >= high), default=every[-1])
        return [tick for tick in every if first <= tick <= last]
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
    first = math.floor(low / step)
    return [step * place for place in range(first, math.ceil(high / step) + 1)]


def _lines(
    curves: Mapping[str, Points],
    marks: Sequence[tuple[float, str]],
    unit: str,
    colour: Colours,
    *,
    logarithmic: bool,
) -> str:
    everything = [y for points in curves.values() for _, y in points if y > 0] or [1.0]
    ticks = _ticks(min(everything) if logarithmic else 0.0, max(everything), logarithmic)
    low, high = ticks[0], ticks[-1] if ticks[-1] > ticks[0] else ticks[0] * 2

    def up(value: float) -> float:
        if logarithmic:
            share = math.log(max(value, low) / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def across(share: float) -> float:
        return LEFT + (WIDTH - LEFT - LEGEND) * share

    parts: list[str] = []
    for share, text in marks:
        x = across(share)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(text)}</text>')
    for value in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {up(value):.1f}H{across(1):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 9}" text-anchor="end">{escape(unit)}</text>')
    for row, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[name]}" stroke-width="2"/>')
        x, y = across(1) + 12, TOP + 4 + LINE * row
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="10" height="10" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 16:.1f}" y="{y + 10}">{escape(name)}</text>')
    return _svg("".join(parts), HEIGHT)


def _svg(content: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" role="img" '
        f'fill="currentColor" font-family="system-ui, sans-serif" font-size="12">{content}</svg>'
    )
