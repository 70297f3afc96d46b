"""Plots as SVG text, drawn without any library so that a report is one file that needs nothing."""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 60, 34, 12

Points = Sequence[tuple[float, float]]


def bars(values: Mapping[str, tuple[float, float, float]], unit: str) -> str:
    """Return bars of (value, least, greatest); the whisker is the spread over rounds."""
    most = max((greatest for _, _, greatest in values.values()), default=0) or 1
    height, label, width = 24, 130, WIDTH - 130 - 90
    parts: list[str] = []
    for row, (name, (value, least, greatest)) in enumerate(values.items()):
        y, x = row * height, label + width * value / most
        parts.append(f'<text x="{label - 6}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{label}" y="{y + 4}" width="{x - label:.1f}" height="16" '
            f'fill="{COLOURS[row % len(COLOURS)]}"/>'
        )
        if greatest > least:
            low, high = label + width * least / most, label + width * greatest / most
            parts.append(f'<path d="M{low:.1f} {y + 12}H{high:.1f}" stroke="#111" stroke-width="2"/>')
        else:
            high = x
        parts.append(f'<text x="{max(x, high) + 5:.1f}" y="{y + 16}">{value:.4g} {escape(unit)}</text>')
    return _svg("".join(parts), height * max(1, len(values)) + 4)


def percentiles(curves: Mapping[str, Points]) -> str:
    """Return latency over percentile, both logarithmic: the tail is what matters."""

    def where(percentile: float) -> float:
        return math.log10(1 / max(1e-4, 1 - percentile / 100)) / 4

    marks = [(where(p), f"{p:g} %") for p in (0, 50, 90, 99, 99.9, 99.99)]
    lines = {name: [(where(x), y) for x, y in points] for name, points in curves.items()}
    return _lines(lines, marks, "ms", logarithmic=True)


def lines(curves: Mapping[str, Points], across: str, unit: str) -> str:
    """Return ordinary lines; `across` names what the x axis counts."""
    most = max((x for points in curves.values() for x, _ in points), default=1) or 1
    marks = [(step / 4, f"{most * step / 4:g}{' ' + across if step == 4 else ''}") for step in range(5)]
    return _lines(
        {name: [(x / most, y) for x, y in points] for name, points in curves.items()},
        marks,
        unit,
        logarithmic=False,
    )


def _lines(
    curves: Mapping[str, Points], marks: Sequence[tuple[float, str]], unit: str, *, logarithmic: bool
) -> str:
    everything = [y for points in curves.values() for _, y in points if y > 0] or [1.0]
    low, high = (min(everything), max(everything)) if logarithmic else (0.0, max(everything))
    high = high if high > low else low * 2 or 1.0

    def up(value: float) -> float:
        if logarithmic:
            share = math.log(max(value, low) / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def across(share: float) -> float:
        return LEFT + (WIDTH - LEFT - 150) * share

    parts: list[str] = []
    for share, text in marks:
        x = across(share)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(text)}</text>')
    for step in range(5):
        value = low * (high / low) ** (step / 4) if logarithmic else low + (high - low) * step / 4
        parts.append(f'<path d="M{LEFT} {up(value):.1f}H{across(1):.1f}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<text x="4" y="{TOP + 2}">{escape(unit)}</text>')
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{across(1) + 8:.1f}" y="{TOP + 12 + 16 * number}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    return _svg("".join(parts), HEIGHT)


def _svg(content: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">{content}</svg>'
    )
