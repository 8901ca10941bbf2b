"""STM with one setting changed: how score and loss depend on width, resolution, clips and memory.

    python -m vos_jax.main --config configs/sweeps/stm.py:PRESET [--workdir DIR]
    python -m vos_jax.benchmark sweep DIR... --knob FIELD --plot FILE.png

Presets, each made of `paper`, or of `quick` with _quick at its end (as in width_0.5_quick):
    width_X     X times as many channels in the backbones; --knob model.width
    size_X      crops and frames of X times the side, in multiples of 16; --knob data.crop
    clip_N      training clips of N frames; --knob data.clip.frames
    memory_N    N frames in memory at most; --knob inference.capacity. Only inference differs, so
                one training is enough: --mode eval --checkpoint DIR
    quick, paper
                the point that all of them have in common, unchanged

All figures are ours: the paper has no such sweep. Weights of a backbone fit width_1 alone, so the
runs of a sweep over the width begin without.
"""

from ml_collections import ConfigDict

from vos_jax.configs.stm import get_config as stm
from vos_jax.presets import common

WIDTHS = (0.25, 0.5, 0.75, 1, 1.5)
SIZES = (0.5, 0.75, 1, 1.25)
CLIPS = (3, 4, 5, 6)
MEMORIES = (2, 3, 5, 10)
POINTS = (
    *(f"width_{x}" for x in WIDTHS),
    *(f"size_{x}" for x in SIZES),
    *(f"clip_{n}" for n in CLIPS),
    *(f"memory_{n}" for n in MEMORIES),
)
PRESETS = ("quick", "paper", *POINTS, *(f"{point}_quick" for point in POINTS))


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a point; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/sweeps/stm.py")
    config = stm("quick" if preset.endswith("quick") else "paper")
    if preset not in ("quick", "paper"):
        knob, _, value = preset.removesuffix("_quick").partition("_")
        _TURN[knob](config, float(value))
    return config


def _width(config: ConfigDict, factor: float) -> None:
    config.model.width = factor * config.model.width


def _size(config: ConfigDict, factor: float) -> None:
    side = 16 * round(factor * config.data.short_side / 16)
    config.data.update({"crop": (side, side), "short_side": side})


def _clip(config: ConfigDict, frames: float) -> None:
    """Of both stages; the memory of training has room for all."""
    config.data.clip.frames = int(frames)


def _memory(config: ConfigDict, frames: float) -> None:
    config.inference.capacity = int(frames)


_TURN = {"width": _width, "size": _size, "clip": _clip, "memory": _memory}
