"""Training examples and their batches: example i depends on (seed, i) and on nothing else.

So any process can make its rows of any global batch, and a run resumes by starting at an index.
tf.data only schedules the work; it sees numbers and arrays, never files.
"""

import atexit
import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from vos_jax.data.augment import FITS, INTERPOLATIONS, Balance, augment, groups_of
from vos_jax.data.clip import VOID, Clip, Video, pixel_counts
from vos_jax.data.example import TRANSPORTS, ExampleSequence, blank, clip_columns, packed
from vos_jax.data.objects import RULES, Choice, choose_objects
from vos_jax.data.processes import WorkerProcesses
from vos_jax.data.sampling import CHOOSERS, RejectedClip, still
from vos_jax.data.sources import Source, open_sources
from vos_jax.data.warp import Warp, paste

ENDLESS = 2**62


class Examples:
    """An endless sequence of training examples drawn from `sources`.

    choose: a name in CHOOSERS. frames: T, frames per example. max_gap: annotated frames between two
    that follow each other. growth: {"start", "step", "every"}, the limit begins at start and grows
    by step every so many examples, up to max_gap; None: max_gap from the beginning. crop, fit,
    short_side, scale, flip, groups, warp, balance, interpolation, contrast: see `augment`. paste:
    up to so many objects of other videos' frames are laid over a clip, warped on their own (with
    `warp` only). max_objects: N. objects: how they are chosen; a draw that it rejects is
    drawn anew, at most `attempts` times. classes: names of categories, of which the first is class
    1. on_bad_clip: what a file that cannot be read does: "raise", or "skip" it for another draw;
    `bad_clips` counts those.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        frames: int,
        crop: tuple[int, int],
        fit: str = "crop",
        short_side: int = 0,
        scale: tuple[float, float] = (1.0, 1.3),
        flip: float = 0.5,
        groups: Sequence[Sequence[int]] = ((0,), (1, 2)),
        max_objects: int,
        seed: int,
        choose: str = "reference_and_run",
        max_gap: int = 1,
        growth: Mapping[str, int] | None = None,
        warp: Warp | None = None,
        balance: Balance | None = None,
        objects: Choice | None = None,
        classes: Sequence[str] = (),
        interpolation: str = "linear",
        contrast: bool = False,
        paste: int = 0,
        attempts: int = 20,
        on_bad_clip: str = "raise",
    ):
        self._choice = objects or Choice()
        names = {
            "clip.choose": (choose, tuple(CHOOSERS)),
            "on_bad_clip": (on_bad_clip, ("raise", "skip")),
            "interpolation": (interpolation, INTERPOLATIONS),
            "fit": (fit, FITS),
            "objects.rule": (self._choice.rule, RULES),
        }
        _check_names(names)
        if not sources or any(not source.videos for source in sources):
            raise ValueError("expected at least one source, each with at least one video")
        if len(crop) != 2 or min(crop) < 1:
            raise ValueError(f"config.data.crop: expected (height, width), got {tuple(crop)}")
        if not 1 <= max_objects <= 254:
            raise ValueError(f"config.data.max_objects: expected 1..254, got {max_objects}")
        self.sources = list(sources)
        self.frames = int(frames)
        self.crop = (int(crop[0]), int(crop[1]))
        self.max_objects = int(max_objects)
        self.bad_clips = 0
        weights = np.array([source.weight for source in sources], np.float64)
        self._shares = weights / weights.sum()
        self._class = {name: number for number, name in enumerate(classes, start=1)}
        self._change = dict(
            crop=self.crop,
            fit=fit,
            short_side=int(short_side),
            scale=tuple(scale),
            flip=float(flip),
            groups=groups_of(groups, frames),
            warp=warp,
            balance=balance,
            interpolation=interpolation,
            contrast=bool(contrast),
        )
        if paste and warp is None:
            raise ValueError("config.data.paste needs config.data.warp, which moves what is pasted")
        self._paste = int(paste)
        self._seed = int(seed)
        self._choose: Callable = CHOOSERS[choose]
        self._max_gap, self._growth = int(max_gap), growth
        self._attempts = int(attempts)
        self._skip = on_bad_clip == "skip"
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @classmethod
    def of(cls, data: Mapping[str, Any], seed: int) -> "Examples":
        """The examples of a section config.data; the sources are those of data["train"].

        What changes nothing is left out: a growth that starts at 0, a warp of no range, a balance
        without tries.
        """
        clip, warp, balance = dict(data["clip"]), Warp(**data["warp"]), Balance(**data["balance"])
        growth = clip.pop("growth", None)
        names = (
            "crop fit short_side scale flip groups interpolation contrast paste max_objects classes"
            " on_bad_clip"
        )
        return cls(
            open_sources(data, "train"),
            **clip,
            growth=growth if growth and growth["start"] else None,
            warp=warp if warp.changes else None,
            balance=balance if balance.tries else None,
            objects=Choice(**data["objects"]),
            **{name: data[name] for name in names.split()},
            seed=seed,
        )

    def columns(self) -> dict[str, Any]:
        """An empty example."""
        return clip_columns(self.frames, self.crop, self.max_objects)

    def example(self, i: int) -> dict:
        """Training example i.

        Returns frames float32 [T, h, w, 3] in 0..255, labels uint8 [T, h, w] (0 background, 1..N
        objects, 255 void), valid bool [N], classes int32 [N] (0: of none), name "dataset/video",
        source_index int32 [T].
        Raises ValueError naming the videos tried where every draw was rejected; that of the
        file where one cannot be read (unless skipped).
        """
        tried = []
        for attempt in range(self._attempts):
            rng = np.random.default_rng([self._seed, int(i), attempt])
            video = self._draw(rng)
            try:
                clip = self._read(video, self._choose, rng, max_gap=self.gap_limit(i))
                return self._finish(clip, rng)
            except RejectedClip as reason:
                tried.append(f"{video.dataset}/{video.name}: {reason}")
        raise ValueError(
            f"example {i}: none of {self._attempts} draws can be trained on; a larger crop or"
            " videos with larger objects may help. Tried " + "; ".join(dict.fromkeys(tried))
        )

    def gap_limit(self, i: int) -> int:
        """The largest gap in example i, in annotated frames."""
        if self._growth is None:
            return self._max_gap
        steps = int(i) // int(self._growth["every"])
        return min(self._growth["start"] + self._growth["step"] * steps, self._max_gap)

    def _draw(self, rng: np.random.Generator) -> Video:
        source = self.sources[rng.choice(len(self.sources), p=self._shares)]
        return source.videos[rng.integers(len(source.videos))]

    def _read(
        self, video: Video, choose: Callable, rng: np.random.Generator, max_gap: int = 1
    ) -> Clip:
        """The frames that a chooser, which may look at masks itself, takes from the video."""
        video = video.with_masks_kept()  # a chooser may have looked at the masks that are read next
        try:
            return video.clip(choose(video, self.frames, rng, max_gap=max_gap))
        except RejectedClip:
            raise
        except (ValueError, OSError) as error:
            if not self._skip:
                raise
            with self._lock:
                self.bad_clips += 1
                first = self.bad_clips == 1
            if first:
                print(f"skipped, as are later ones without a word: {error}", file=sys.stderr)
            raise RejectedClip(str(error)) from error

    def _finish(self, clip: Clip, rng: np.random.Generator) -> dict:
        frames, masks = augment(clip.frames, clip.masks, rng, **self._change)
        if self._paste:
            frames, masks = self._pasted(frames, masks, rng)
        labels, ids = choose_objects(masks, rng, self.max_objects, self._choice)
        return dict(
            frames=frames,
            labels=labels,
            valid=np.arange(self.max_objects) < len(ids),
            classes=self._classes(clip, ids),
            name=f"{clip.dataset}/{clip.name}",
            source_index=clip.source_index,
        )

    def _classes(self, clip: Clip, ids: np.ndarray) -> np.ndarray:
        """Of the objects with these ids, int32 [N]."""
        classes = np.zeros(self.max_objects, np.int32)
        if self._class and clip.categories is not None and not self._choice.merge:
            named = dict(zip(clip.ids.tolist(), clip.categories, strict=True))
            classes[: len(ids)] = [self._class.get(named.get(int(i)), 0) for i in ids]
        return classes

    def _pasted(
        self, frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The clip with the objects of up to `paste` other frames laid over it."""
        for _ in range(rng.integers(self._paste + 1)):
            other = self._draw(rng)
            clip = self._read(other, still, rng)
            layers, layer_masks = augment(clip.frames, clip.masks, rng, **self._change)
            first = int(np.flatnonzero(pixel_counts(masks)[:VOID]).max(initial=0)) + 1
            pairs = zip(frames, masks, layers, layer_masks, strict=True)
            laid = [paste(*pair, first) for pair in pairs]
            frames, masks = (np.stack(column) for column in zip(*laid, strict=True))
        return frames, masks


def _check_names(fields: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Raises ValueError for a field of config.data whose value is none of the known ones."""
    for field, (value, known) in fields.items():
        if value not in known:
            raise ValueError(f"config.data.{field}: expected one of {known}, got {value!r}")


def batches(
    examples: ExampleSequence,
    start: int,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    prefetch: int = 2,
    processes: int = 0,
    transport: str = "float32",
) -> Iterator[dict]:
    """This process's rows of the global batches from example `start` on, endlessly.

    batch: global batch size, a multiple of process_count. Process p of P gets rows p*batch/P ...
    (p+1)*batch/P - 1 of each. Yields dicts of stacked arrays as in `Examples.example`, `name` as a
    list of str, and bad_clips, how many files this process could not read so far (some of them for
    batches made ahead). workers: threads. prefetch: batches made ahead. processes: so many worker
    processes make the examples instead of threads, the same ones; they end when the iterator is
    closed. transport: dtype of `frames`, see example.py. Errors of an example are raised when its
    batch is due, as they were.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"config.data.transport: expected one of {TRANSPORTS}, got {transport!r}")
    if batch < 1 or batch % process_count:
        raise ValueError(
            f"config.train.batch: expected a multiple of the {process_count} processes, got {batch}"
        )
    stream = _stream(
        examples,
        start + process_index * (batch // process_count),
        batch,
        batch // process_count,
        max(int(workers), 1),
        prefetch,
        processes,
        transport,
    )
    _OPEN.add(stream)
    return stream


# A tf.data iterator that is still alive when the interpreter shuts down waits for ever for its
# workers, which wait for the interpreter: close those that their owners left open.
_OPEN: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
    for stream in list(_OPEN):
        with contextlib.suppress(ValueError):  # one that a thread is running cannot be closed
            stream.close()


def _stream(
    examples: ExampleSequence,
    first: int,
    batch: int,
    local: int,
    workers: int,
    prefetch: int,
    processes: int,
    transport: str,
) -> Iterator[dict]:
    failures: dict[int, Exception] = {}
    columns = blank(examples, transport)

    def make(row):
        i = first + int(row) // local * batch + int(row) % local
        made = columns
        try:
            made = columns | packed(examples.example(i), transport)
        except Exception as error:  # raised again below, without TensorFlow's own trace
            failures[i] = error
        return i, *made.values()

    with contextlib.ExitStack() as stack:
        if processes:
            examples = stack.enter_context(WorkerProcesses(examples, processes, transport))
            workers = processes + 2  # they only wait, and always one for a process that is free
        else:
            stack.callback(cv2.setNumThreads, cv2.getNumThreads())
            cv2.setNumThreads(0)  # the workers are the parallelism, as long as they run
        dataset = _dataset(make, columns, local, workers, prefetch)
        for index, *found in dataset.as_numpy_iterator():
            failed = next((int(i) for i in index if int(i) in failures), None)
            if failed is not None:
                raise failures[failed]
            rows = dict(zip(columns, found, strict=True))
            rows["name"] = [name.decode() for name in rows["name"]]
            yield rows | {"bad_clips": examples.bad_clips}


def _dataset(make: Callable, columns: dict[str, Any], local: int, workers: int, prefetch: int):
    """range -> make, in parallel but in order -> batch -> prefetch."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    arrays = [np.asarray(x) for x in columns.values()]
    types = [tf.int64, *(tf.as_dtype(x.dtype.type) for x in arrays)]
    shapes = [(), *(x.shape for x in arrays)]

    @tf.autograph.experimental.do_not_convert
    def mapped(row):
        made = tf.numpy_function(make, [row], types, stateful=False)
        for column, shape in zip(made, shapes, strict=True):
            column.set_shape(shape)
        return tuple(made)

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    return (
        tf.data.Dataset.range(ENDLESS)
        .map(mapped, num_parallel_calls=workers, deterministic=True)
        .batch(local, drop_remainder=True)
        .prefetch(prefetch)
        .with_options(options)
    )
