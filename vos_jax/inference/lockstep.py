"""Segment several videos at once, one on each device of this process, with one executable.

The videos have one frame size, and masks come at the same frames of all of them. Each device runs
the program of `streaming` for its video (shard_map): the answers are those of a `VideoSegmenter`
for each video, and nothing is communicated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vos_jax.data.clip import object_ids
from vos_jax.inference.streaming import bucket, compiled, mark, pad_to, to_slots
from vos_jax.systems.base import VOSModel

AXIS = "videos"
_WHOLE, _ROWS = PartitionSpec(), PartitionSpec(AXIS)


def local_mesh() -> Mesh:
    """All devices of this process, along one axis."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


class LockstepSegmenter:
    """Holds the memories of up to as many videos as `mesh` has devices.

    Where there are fewer, the first one is repeated and the copies are dropped: the shapes, and so
    the executable, stay the same.

    Args:
        model: a system without a mesh of its own.
        variables: its variables, on the host or a device; they are copied to all devices.
        ids: of each video, all ids that will be given.
        slots: the fewest object slots; videos of one batch have one bucket of them.
        mesh: see `local_mesh`.
    """

    def __init__(
        self,
        model: VOSModel,
        variables: Any,
        ids: Sequence[Sequence[int]],
        slots: int,
        mesh: Mesh,
    ):
        self._model, self._mesh, self._ids = model, mesh, [list(row) for row in ids]
        self._variables = jax.device_put(variables, NamedSharding(mesh, _WHOLE))
        self._start, self._step = _compiled(model, mesh)
        self._slots = bucket(max(slots, *map(len, self._ids)))
        self._memory, self._size, self._references = None, None, 1
        self._prepared: list[Any] = [None] * len(ids)

    def dispatch(
        self, frames: Sequence[np.ndarray | None], labels: Sequence[np.ndarray | None]
    ) -> list[Callable[[], np.ndarray]]:
        """Segment the next frame of every video, without waiting for it.

        Args:
            frames: uint8 [H, W, 3] RGB each, or None for a video that is over.
            labels: the given masks as label maps [H, W], or None; all or none of the videos that
                are not over have them, and all do at the first call.

        Returns:
            For each video a function that waits for its label map uint8 [H, W]. The first frame's
            mask comes back as given.

        Raises:
            ValueError: frames of several sizes, or a first mask without an object.
        """
        for row, frame in enumerate(frames):
            if frame is not None:
                self._check_size(frame, frames[0])
                self._prepared[row] = self._model.preprocess(frame)
        inputs = self._placed(self._prepared)
        if self._memory is None:
            return self._begin(inputs, frames, labels)
        given = [[] if x is None else object_ids(x) for x in labels]
        arguments = ()
        if any(given):
            self._make_room(inputs)
            arguments = self._slot_labels(labels), self._marked(given)
        self._memory, found = self._step(
            self._variables, self._memory, inputs, *arguments, size=self._size
        )
        found.copy_to_host_async()
        fetched = functools.cache(lambda: np.asarray(found))
        tables = [np.array([0, *ids], np.uint8) for ids in self._ids]
        return [lambda row=row: tables[row][fetched()[row]] for row in range(len(frames))]

    def _begin(self, inputs, frames, labels):
        given = [object_ids(x) for x in labels]
        if not all(given):
            raise ValueError(
                "the first mask holds no object: expected an id in 1..254, found only 0 and 255"
            )
        self._size = frames[0].shape[:2]
        self._memory = self._start(
            self._variables,
            inputs,
            self._slot_labels(labels),
            self._marked(given),
            num_references=1,
            size=self._size,
        )
        return [lambda x=x: x.copy() for x in labels]

    def _check_size(self, frame: np.ndarray, first: np.ndarray) -> None:
        expected, found = self._size or first.shape[:2], frame.shape[:2]
        if found != expected:
            raise ValueError(
                f"expected frames of {expected[0]}x{expected[1]} (height x width) like the first "
                f"one, found {found[0]}x{found[1]}"
            )

    def _make_room(self, inputs: Any) -> None:
        """Grow the memories by zero-padding when one more reference frame does not fit."""
        self._references += 1
        if bucket(self._references) > bucket(self._references - 1):
            rows = self._mesh.size
            shapes = jax.eval_shape(
                functools.partial(
                    self._start, num_references=bucket(self._references), size=self._size
                ),
                self._variables,
                inputs,
                jax.ShapeDtypeStruct((rows, *self._size), np.uint8),
                jax.ShapeDtypeStruct((rows, self._slots), bool),
            )
            self._memory = jax.tree.map(pad_to, self._memory, shapes)

    def _slot_labels(self, labels: Sequence[np.ndarray | None]) -> jax.Array:
        nothing = np.zeros(self._size, np.uint8)
        maps = [nothing if x is None else x for x in labels]
        return self._placed([to_slots(x, i) for x, i in zip(maps, self._ids, strict=True)])

    def _marked(self, given: Sequence[list[int]]) -> jax.Array:
        rows = zip(self._ids, given, strict=True)
        return self._placed([mark(ids, new, self._slots)[0] for ids, new in rows])

    def _placed(self, rows: Sequence[Any]) -> Any:
        """The rows [...] as [devices, ...], one on each device."""
        rows = [*rows, *[rows[0]] * (self._mesh.size - len(rows))]
        stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
        return jax.device_put(stacked, NamedSharding(self._mesh, _ROWS))


@functools.lru_cache(maxsize=32)
def _compiled(model: VOSModel, mesh: Mesh) -> tuple[Callable, Callable]:
    """The jitted functions of a model for a video on each device: start and step.

    start gives the memories; step(variables, memory, inputs[, labels, new]) also the slot labels.
    """
    start_one, step_one, *_ = compiled(model)

    @functools.partial(jax.jit, static_argnames=("num_references", "size"))
    def start(variables, *rows, **options):
        return _each(lambda *x: start_one(*x, **options)[0], mesh, variables, *rows)

    @functools.partial(jax.jit, static_argnames="size", donate_argnums=1)
    def step(variables, memory, inputs, labels=None, new=None, *, size):
        def one(variables, memory, inputs, labels=None, new=None):
            memory, _, found, _ = step_one(variables, memory, inputs, labels, new, size=size)
            return memory, found

        given = () if labels is None else (labels, new)
        return _each(one, mesh, variables, memory, inputs, *given)

    return start, step


def _each(function: Callable, mesh: Mesh, variables: Any, *rows: Any) -> Any:
    """function(variables, *rows) on every device with its part of the rows [devices, ...].

    Scalars, such as how many reference frames a memory holds, are the same for all videos.
    """

    def part(x):
        shape = (x.shape[0] // mesh.size, *x.shape[1:]) if x.ndim else ()
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def specs(tree):
        return jax.tree.map(lambda x: _ROWS if x.ndim else _WHOLE, tree)

    found = jax.eval_shape(function, variables, *jax.tree.map(part, rows))
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(_WHOLE, *specs(rows)),
        out_specs=specs(found),
        check_vma=False,
    )
    return mapped(variables, *rows)
