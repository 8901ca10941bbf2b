"""Draws the figures of docs/systems: what flows through each system while it sees one frame.

    python docs/figures/draw.py

writes SYSTEM.svg beside itself. A figure is a table of boxes on a grid and of arrows between them:
blue is data, green has weights that are learnt, yellow is an equation without weights, violet is
what is kept from frame to frame; a dashed arrow leads to the next frame. The ground is transparent
and text stands in light boxes, so that a figure reads on a light page and on a dark one.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 152, 50, 194, 76, 12
FILL = {"data": "#cfe3fa", "learnt": "#cdebd2", "rule": "#fbe8b4", "kept": "#e2d5f5"}
LINE = "#7d8896"
HEAD = 7


class Box(NamedTuple):
    """A box at a column and row of the grid, which may lie between two."""

    column: float
    row: float
    kind: str
    text: str

    @property
    def x(self) -> float:
        return MARGIN + self.column * ACROSS

    @property
    def y(self) -> float:
        return MARGIN + self.row * DOWN

    def side(self, name: str) -> tuple[float, float]:
        """The middle of a side: "left", "right", "top" or "bottom"."""
        dx, dy = {"left": (0, 0.5), "right": (1, 0.5), "top": (0.5, 0), "bottom": (0.5, 1)}[name]
        return self.x + dx * WIDTH, self.y + dy * HEIGHT


# of each system: boxes by a name of one letter, and arrows "ab" (or "ab-", dashed) between them
FIGURES = {
    "feelvos": (
        {
            "f": Box(0, 2, "data", "frame t"),
            "n": Box(1, 2, "learnt", "DeepLabv3+|embedding, stride 4"),
            "a": Box(2, 0, "kept", "first frame:|embedding, labels"),
            "g": Box(2, 1, "rule", "global matching|nearest anywhere"),
            "l": Box(2, 3, "rule", "local matching|nearest in a window"),
            "p": Box(2, 4, "kept", "previous frame:|embedding, labels"),
            "h": Box(3, 2, "learnt", "dynamic head|for each label"),
            "s": Box(4, 2, "rule", "softmax|over labels"),
            "o": Box(5, 2, "data", "label map"),
        },
        "fn nh ng nl ag pl gh lh ph hs so op-",
    ),
    "stm": (
        {
            "f": Box(0, 1, "data", "frame t"),
            "q": Box(1, 1, "learnt", "query encoder|key, value, stride 16"),
            "m": Box(2, 0, "kept", "memory: keys, values|of past frames"),
            "r": Box(2, 1, "rule", "space-time read|softmax over memory"),
            "d": Box(3, 1, "learnt", "decoder|for each object"),
            "a": Box(4, 1, "rule", "soft aggregation"),
            "o": Box(5, 1, "data", "soft masks"),
            "e": Box(4, 0, "learnt", "memory encoder|frame and masks"),
        },
        "fq qr mr rd da ao oe- em-",
    ),
    "cfbi": (
        {
            "f": Box(0, 2, "data", "frame t"),
            "n": Box(1, 2, "learnt", "encoder, embedding|(CFBI+: 3 scales)"),
            "a": Box(2, 0, "kept", "reference frames:|embedding, labels"),
            "g": Box(2, 1, "rule", "global matching|label and all else"),
            "l": Box(2, 3, "rule", "multi-local matching|nested windows"),
            "p": Box(2, 4, "kept", "previous frame:|embedding, labels"),
            "i": Box(3, 0, "rule", "means inside, outside|of both frames' masks"),
            "h": Box(3, 2, "learnt", "ensembler, gated,|for each label"),
            "s": Box(4, 2, "rule", "softmax|over labels"),
            "o": Box(5, 2, "data", "label map"),
        },
        "fn nh ng nl ag pl gh lh ph ai ih hs so op-",
    ),
    "rvos": (
        {
            "f": Box(0, 1, "data", "frame t"),
            "n": Box(1, 1, "learnt", "encoder, maps|at strides 4 to 32"),
            "a": Box(2, 0, "learnt", "ConvLSTMs|object 1"),
            "b": Box(2, 1, "learnt", "ConvLSTMs|object 2"),
            "c": Box(2, 2, "learnt", "ConvLSTMs|object N"),
            "m": Box(2, 3, "kept", "of each object: state,|mask (one-shot)"),
            "u": Box(3, 0, "data", "soft map 1"),
            "v": Box(3, 1, "data", "soft map 2"),
            "w": Box(3, 2, "data", "soft map N"),
            "p": Box(4, 1, "rule", "pairing, painting|best on top"),
            "o": Box(5, 1, "data", "label map"),
        },
        "fn na nb nc ab bc mc au bv cw up vp wp po wm-",
    ),
    "agame": (
        {
            "f": Box(0, 2, "data", "frame t"),
            "n": Box(1, 2, "learnt", "ResNet-101|strides 4, 8, 16"),
            "g": Box(2, 0, "kept", "4 Gaussians|for each object"),
            "a": Box(2, 1, "rule", "log-scores|of the components"),
            "m": Box(2, 3, "learnt", "mask propagation"),
            "p": Box(2, 4, "kept", "previous mask,|frame it was given in"),
            "c": Box(3, 2, "learnt", "fusion: coarse mask|stride 16"),
            "u": Box(4, 2, "learnt", "upsampling|with strides 8, 4"),
            "o": Box(5, 2, "data", "soft masks"),
        },
        "fn na nm ga pm ac mc cu uo op- og-",
    ),
    "cosnet": (
        {
            "r": Box(0, 0, "data", "reference frames|of the video"),
            "f": Box(0, 1, "data", "frame t"),
            "e": Box(1, 0, "learnt", "encoder"),
            "n": Box(1, 1, "learnt", "encoder,|same weights"),
            "m": Box(2, 0, "kept", "features of the|references"),
            "a": Box(2, 1, "rule", "co-attention|affinity, softmax"),
            "v": Box(2, 2, "data", "features of frame t"),
            "g": Box(3, 1, "learnt", "gate"),
            "h": Box(4, 1, "learnt", "segmentation head"),
            "o": Box(5, 1, "data", "foreground|(mean over references)"),
        },
        "re em fn na nv ma ag gh vh ho",
    ),
    "masktrack_rcnn": (
        {
            "f": Box(0, 1, "data", "frame t"),
            "n": Box(1, 1, "learnt", "ResNet and|feature pyramid"),
            "r": Box(2, 1, "learnt", "proposals,|RoIAlign"),
            "b": Box(3, 0, "learnt", "class, box, score"),
            "k": Box(3, 1, "learnt", "mask head"),
            "e": Box(3, 2, "learnt", "track head|embedding"),
            "a": Box(4, 2, "rule", "association|log p + cues"),
            "m": Box(4, 3, "kept", "known objects:|embedding, box, class"),
            "o": Box(5, 1, "data", "instances|with identities"),
        },
        "fn nr rb rk re ba ea ma ko ao om-",
    ),
    "maskprop": (
        {
            "f": Box(0, 0, "data", "frame t"),
            "c": Box(0, 1, "data", "frames|t - T ... t + T"),
            "d": Box(1, 0, "learnt", "Mask R-CNN"),
            "n": Box(1, 1, "learnt", "feature pyramid|at one stride"),
            "i": Box(2, 0, "data", "instances of frame t"),
            "x": Box(2, 1, "learnt", "offsets from differ-|ence of two frames"),
            "g": Box(3, 0, "learnt", "deformable|convolution"),
            "s": Box(4, 0, "rule", "softmax over instances|times attention"),
            "l": Box(4, 1, "rule", "linking by soft IoU|where clips meet"),
            "k": Box(4, 2, "kept", "the last 2 T clips|and their ids"),
            "o": Box(5, 1, "data", "instances of t|with identities"),
        },
        "fd cn di nx ig xg gs sl kl lo ok-",
    ),
}


def curve(start: Box, end: Box) -> str:
    """The path of an arrow: along rows and columns where it can, else a curve."""
    if start.column == end.column:
        down = end.row > start.row
        x, y = start.side("bottom" if down else "top")
        to_y = end.side("top" if down else "bottom")[1] + (-HEAD if down else HEAD)
        return f"M{x:g},{y:g} L{x:g},{to_y:g}"
    if end.column < start.column:  # what is kept for the next frame
        if start.row == end.row:
            (x, y), (to_x, _) = start.side("left"), end.side("right")
            return f"M{x:g},{y:g} L{to_x + HEAD:g},{y:g}"
        x, y = start.side("bottom" if end.row > start.row else "top")
        to_x, to_y = end.side("right")
        return f"M{x:g},{y:g} Q{x:g},{to_y:g} {to_x + HEAD:g},{to_y:g}"
    (x, y), (to_x, to_y) = start.side("right"), end.side("left")
    to_x -= HEAD
    if start.row == end.row:
        return f"M{x:g},{y:g} L{to_x:g},{y:g}"
    middle = (max(x, end.x - ACROSS + WIDTH) + to_x) / 2  # turns in the last gap
    return (
        f"M{x:g},{y:g} L{middle - 14:g},{y:g}"
        f" C{middle + 4:g},{y:g} {middle - 8:g},{to_y:g} {to_x:g},{to_y:g}"
    )


def svg(name: str) -> str:
    """The figure of a system."""
    boxes, arrows = FIGURES[name]
    width = max(box.x for box in boxes.values()) + WIDTH + MARGIN
    height = max(box.y for box in boxes.values()) + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" font-family="Helvetica, Arial, sans-serif"'
        f' font-size="13" role="img"><title>{name}: one frame</title>',
        f'<marker id="head" markerUnits="userSpaceOnUse" markerWidth="{HEAD + 1}"'
        f' markerHeight="10" refY="5" orient="auto"><path d="M0,0 L{HEAD + 1},5 L0,10 z"'
        f' fill="{LINE}"/></marker>',
    ]
    for arrow in arrows.split():
        dashed = ' stroke-dasharray="5 4"' if arrow.endswith("-") else ""
        path = curve(boxes[arrow[0]], boxes[arrow[1]])
        parts.append(
            f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.8"'
            f' marker-end="url(#head)"{dashed}/>'
        )
    for box in boxes.values():
        parts.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"'
            f' fill="{FILL[box.kind]}" stroke="{LINE}"/>'
        )
        lines = box.text.split("|")
        top = box.y + HEIGHT / 2 + 4.5 - 8.5 * (len(lines) - 1)
        for i, line in enumerate(lines):
            parts.append(
                f'<text x="{box.x + WIDTH / 2:g}" y="{top + 17 * i:g}" text-anchor="middle"'
                f' fill="#1b2430">{escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    for system in FIGURES:
        (Path(__file__).parent / f"{system}.svg").write_text(svg(system))
