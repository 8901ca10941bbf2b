"""The form in which training examples leave the pipeline, and the dtype in which frames travel.

config.data.transport says how frames go to the device, where the train step makes float32 of them:
"float32" (as they are), "float16" or "uint8", half and a quarter of the bytes. In float16 a value
of 0..255 is at most 1/16 off (1/8 to 512). uint8 is rounded to whole grey levels, at most 1/2 off;
recipes with cubic interpolation, whose values leave 0..255, may not use it.
"""

from typing import Any, Protocol

import numpy as np

TRANSPORTS = ("float32", "float16", "uint8")


class ExampleSequence(Protocol):
    """An endless sequence of examples of one form; see pipeline.Examples, and stages.py."""

    bad_clips: int

    def columns(self) -> dict[str, Any]:
        """An empty example: arrays of the shapes and dtypes that all have, and a name b""."""

    def example(self, i: int) -> dict:
        """Training example i."""


def blank(examples: ExampleSequence, transport: str) -> dict[str, Any]:
    """The columns of an example as they travel, empty."""
    return packed(examples.columns(), transport)


def clip_columns(frames: int, crop: tuple[int, int], max_objects: int) -> dict[str, Any]:
    """Those of a clip with label maps; see `pipeline.Examples.example`."""
    shape = (frames, *crop)
    return dict(
        frames=np.zeros((*shape, 3), np.float32),
        labels=np.zeros(shape, np.uint8),
        valid=np.zeros(max_objects, bool),
        classes=np.zeros(max_objects, np.int32),
        name=b"",
        source_index=np.zeros(frames, np.int32),
    )


def packed(example: dict, transport: str) -> dict[str, Any]:
    """The columns of an example as they travel; what is packed already stays as it is."""
    frames, name = example["frames"], example["name"]
    if transport == "uint8" and frames.dtype != np.uint8:
        frames = np.rint(frames)
    name = name if isinstance(name, bytes) else name.encode()
    return {**example, "frames": frames.astype(transport, copy=False), "name": name}
