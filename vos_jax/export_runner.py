"""Segment videos with an exported system; needs jax and numpy alone.

    from runner import Runner

    runner = Runner("DIR")  # the folder that `python -m vos_jax.export` wrote; by default this one
    labels = runner.start(first_frame, first_mask)
    for frame in frames:
        labels = runner.step(frame)

Frames are uint8 [H, W, 3] RGB of the size in manifest.json, masks and labels uint8 [H, W] with ids
0..254 (0 background, 255 unknown). `start` begins another video at any time.
"""

import json
from pathlib import Path

import jax
import numpy as np
from jax import export

FORMAT = 1
VOID = 255


class Runner:
    """Holds the memory of one video.

    Attributes:
        ids: the ids of the objects in the order of their slots.
        manifest: what the export says about itself.
    """

    def __init__(self, folder=Path(__file__).parent):
        folder = Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        if self.manifest["format"] != FORMAT:
            raise ValueError(
                f"{folder}/manifest.json: expected format {FORMAT}, found "
                f"{self.manifest['format']}; use the runner.py that lies beside it"
            )
        with np.load(folder / "parameters.npz") as stored:
            names = [entry["name"] for entry in self.manifest["parameters"]]
            self._parameters = jax.device_put([stored[name] for name in names])
        self._start = jax.jit(_read(folder / "start.stablehlo"))
        self._step = jax.jit(_read(folder / "step.stablehlo"), donate_argnums=1)
        self._give = None
        if self.manifest["given_masks"] > 1:
            self._give = jax.jit(_read(folder / "give.stablehlo"), donate_argnums=1)
        self._size, self._slots = tuple(self.manifest["size"]), self.manifest["objects"]
        self._memory, self.ids, self._given = None, [], 0

    def start(self, frame, labels):
        """Begin a video; returns the mask as it was given.

        Raises ValueError for another size or dtype, no object, or more than there is room for.
        """
        frame, labels = self._frame(frame), self._labels(labels)
        given = _ids(labels)
        if not given:
            raise ValueError("the first mask holds no object: expected an id in 1..254")
        self.ids = self._with([], given)
        slots, marked = self._slots_of(labels, given)
        self._memory, self._given = self._start(self._parameters, frame, slots, marked), 1
        return labels.copy()

    def step(self, frame, labels=None):
        """Segment the next frame: uint8 [H, W].

        labels: a mask whose objects are added, or corrected where the id is known, in an export
        with --given_masks. Raises ValueError as `start`, and where there is no room for the mask.
        """
        if self._memory is None:
            raise ValueError("no video has begun: call start(frame, mask) first")
        frame = self._frame(frame)
        labels = None if labels is None else self._labels(labels)
        given = [] if labels is None else _ids(labels)
        if given:
            room = self.manifest["given_masks"]
            if self._given == room:
                raise ValueError(
                    f"this export has room for {room} frames with masks of a video, found one "
                    "more; export with a larger --given_masks"
                )
            self.ids = self._with(self.ids, given)
            slots, marked = self._slots_of(labels, given)
            self._given += 1
            memory, found = self._give(self._parameters, self._memory, frame, slots, marked)
        else:
            memory, found = self._step(self._parameters, self._memory, frame)
        self._memory = memory
        return np.array([0, *self.ids], np.uint8)[np.asarray(found)]

    def _with(self, ids, given):
        ids = ids + [i for i in given if i not in ids]
        if len(ids) > self._slots:
            raise ValueError(
                f"this export has room for {self._slots} objects, found the ids {ids}; export "
                "with a larger --objects"
            )
        return ids

    def _slots_of(self, labels, given):
        """Labels in slots 1.. and which slots are given, bool [N]."""
        table = np.zeros(256, np.uint8)
        table[self.ids], table[VOID] = np.arange(1, len(self.ids) + 1), VOID
        marked = np.zeros(self._slots, bool)
        marked[: len(self.ids)] = np.isin(self.ids, given)
        return table[labels], marked

    def _frame(self, frame):
        frame = np.asarray(frame)
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a frame uint8 {(*self._size, 3)} in RGB, found {frame.dtype} "
                f"{frame.shape}; export with another --size"
            )
        return frame

    def _labels(self, labels):
        labels = np.asarray(labels)
        if labels.shape != self._size or labels.dtype != np.uint8:
            raise ValueError(
                f"expected a mask uint8 {self._size}, found {labels.dtype} {labels.shape}"
            )
        return labels


def _read(path):
    return export.deserialize(bytearray(path.read_bytes())).call


def _ids(labels):
    return [int(i) for i in np.unique(labels) if i not in (0, VOID)]
