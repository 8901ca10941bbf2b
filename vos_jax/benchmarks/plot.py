"""Line plots of a few panels as a PNG, drawn with Pillow."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from etils import epath
from PIL import Image, ImageDraw, ImageFont

from vos_jax.files import whole_file

# Drawn at twice the size and shrunk, so that lines are smooth.
SCALE, WIDTH, HEIGHT = 2, 520, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 60, 52
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
INK, GRID = "#222222", "#dddddd"

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One plot. lines: name -> points joined in the order of x; dots: the same, not joined.

    log_x: equal ratios of x are equally far apart. zero: y begins at 0.
    """

    title: str
    x: str
    y: str
    lines: dict[str, Points]
    dots: dict[str, Points] = {}
    log_x: bool = False
    zero: bool = True


def draw(path: epath.PathLike, panels: Sequence[Panel]) -> None:
    """Write the panels to a PNG, two beside each other."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    size = (columns * WIDTH * SCALE, rows * HEIGHT * SCALE)
    image = Image.new("RGB", size, "white")
    for i, panel in enumerate(panels):
        corner = (i % columns * WIDTH * SCALE, i // columns * HEIGHT * SCALE)
        image.paste(_drawn(panel), corner)
    with whole_file(path) as file:
        image.resize((size[0] // SCALE, size[1] // SCALE), Image.LANCZOS).save(file, "PNG")


def _drawn(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    pen = _Pen(ImageDraw.Draw(image))
    series = [*panel.lines.values(), *panel.dots.values()]
    xs, ys = ([p[i] for points in series for p in points] for i in (0, 1))
    across = _Axis(sorted(set(xs)), LEFT, WIDTH - RIGHT, panel.log_x)
    ticks = _round_ticks(*((min(*ys, 0), max(*ys, 0)) if panel.zero else (min(ys), max(ys))))
    up = _Axis(ticks, HEIGHT - BOTTOM, TOP, False)
    for y in ticks:
        pen.line([(LEFT, up.at(y)), (WIDTH - RIGHT, up.at(y))], GRID, 1)
        pen.text((LEFT - 8, up.at(y)), f"{y:g}", "rm")
    of_dots = {x for points in panel.dots.values() for x, _ in points}
    for x in across.labelled(of_dots or xs):
        pen.line([(across.at(x), HEIGHT - BOTTOM), (across.at(x), HEIGHT - BOTTOM + 5)], INK, 1)
        pen.text((across.at(x), HEIGHT - BOTTOM + 8), f"{x:g}", "ma")
    pen.text((LEFT, 12), f"{panel.title}, {panel.y}" if panel.y else panel.title, "la", 15)
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 22), panel.x, "ma")
    beside = LEFT
    names = list(dict.fromkeys([*panel.lines, *panel.dots]))
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        line = [(across.at(x), up.at(y)) for x, y in sorted(panel.lines.get(name, ()))]
        dots = [(across.at(x), up.at(y)) for x, y in panel.dots.get(name, ())]
        pen.line(line, colour, 2)
        for place in dots or (line if not panel.dots else ()):
            pen.dot(place, colour)
        if len(names) > 1 or panel.dots:
            pen.dot((beside + 4, 44), colour)
            beside = pen.text((beside + 14, 44), name, "lm") + 18
    pen.line([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK, 1)
    return image


class _Axis:
    """Values to pixels."""

    def __init__(self, ticks: Sequence[float], low: float, high: float, log: bool):
        self._log = math.log if log else float
        self._low, self._high = low, high
        self._first, self._last = self._log(ticks[0]), self._log(ticks[-1])

    def at(self, value: float) -> float:
        span = self._last - self._first
        share = (self._log(value) - self._first) / span if span else 0.5
        return self._low + share * (self._high - self._low)

    def labelled(self, values: Iterable[float]) -> list[float]:
        """Those of the values whose labels have room beside each other."""
        kept = []
        for value in sorted(set(values)):
            if not kept or abs(self.at(value) - self.at(kept[-1])) >= 36:
                kept.append(value)
        return kept


class _Pen:
    def __init__(self, draw: ImageDraw.ImageDraw):
        self._draw = draw

    def line(self, points: Points, colour: str, width: int) -> None:
        if len(points) > 1:
            scaled = [(x * SCALE, y * SCALE) for x, y in points]
            self._draw.line(scaled, fill=colour, width=width * SCALE, joint="curve")

    def dot(self, place: tuple[float, float], colour: str, radius: float = 3.5) -> None:
        (x, y), r = (SCALE * p for p in place), radius * SCALE
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def text(self, place: tuple[float, float], text: str, anchor: str, size: int = 12) -> float:
        """Returns where the text ends on the right."""
        font = ImageFont.load_default(size * SCALE)
        x, y = place
        where = (x * SCALE, y * SCALE)
        self._draw.text(where, text, fill=INK, font=font, anchor=anchor)
        return self._draw.textbbox(where, text, font=font, anchor=anchor)[2] / SCALE


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to nine values with round distances, from at most `low` to at least `high`."""
    if low == high:
        return [low, low + 1]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
