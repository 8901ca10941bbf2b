"""What the tests over all systems share: promises, a clip of three objects, ways through it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.inference.rollout import rollout
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.systems.base import VOSModel, one_hot
from vos_jax.systems.table import systems_of

# Largest difference of probabilities that only rounding tells apart: ten times and more what
# rounding does to answers that are `is_steady`. Another mask or memory makes 1e-2 and more.
CLOSE = 5e-4
PROMISES: set[str] = set()

Answers = tuple[np.ndarray, np.ndarray]


def promise(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of every system of the task "vos"; it gets the name as `system`.

    Its own name without "test_" is the promise's. A system whose entry says in `exempt` why it does
    not keep it is skipped with that reason.
    """
    name = test.__name__.removeprefix("test_")
    PROMISES.add(name)
    cases = []
    for system, entry in systems_of("vos").items():
        skip = [pytest.mark.skip(reason=entry.exempt[name])] if name in entry.exempt else []
        cases.append(pytest.param(system, marks=skip))
    return pytest.mark.parametrize("system", cases, scope="module")(test)


def three_objects(clip: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The clip with its second object cut into two, side by side: ids 1 to 3."""
    frames, masks = clip
    masks = masks.copy()
    for labels in masks:
        columns = np.flatnonzero((labels == 2).any(axis=0))
        right = labels[:, columns[len(columns) // 2] :]
        right[right == 2] = 3
    return frames, masks


def only(labels: np.ndarray, *ids: int) -> np.ndarray:
    """Labels without the other objects."""
    return np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)


def stream(
    model: VOSModel,
    variables: dict[str, Any],
    frames: np.ndarray,
    given: dict[int, np.ndarray],
    **settings: Any,
) -> Answers:
    """The clip through the streaming segmenter; `given` maps frame number -> label map.

    A system that takes no masks gets none of them. Returns labels [T, H, W] and probabilities
    [T, K+1, H, W], 0 before an object is known.
    """
    if model.traits.guidance == "none":
        given = {}
    segmenter = VideoSegmenter(model, variables, **settings)
    labels, channels = [], []
    for t, frame in enumerate(frames):
        labels.append(segmenter.step(frame, given.get(t)))
        channels.append(segmenter.probabilities())
    room = [len(channels[-1]) - len(x) for x in channels]
    padded = [np.pad(x, ((0, n), (0, 0), (0, 0))) for x, n in zip(channels, room, strict=True)]
    return np.stack(labels), np.stack(padded)


def roll(
    model: VOSModel,
    variables: dict[str, Any],
    frames: np.ndarray,
    masks: np.ndarray,
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Probabilities [T-1, N+1, H, W] of the rollout, without what is pasted into them.

    masks: as labels; given: bool [T, N], None: all objects come with the first frame.
    """
    inputs = np.stack([model.preprocess(frame) for frame in frames])[None]
    run = compiled_roll(model, int(masks.max()), masks.shape[1:])
    return np.asarray(run(variables, inputs, masks, None if given is None else given[None])[:, 0])


@functools.lru_cache(maxsize=8)
def compiled_roll(model: VOSModel, objects: int, size: tuple[int, int]) -> Callable[..., jax.Array]:
    """The jitted rollout of clips of `size`; its variables may change from call to call."""

    @jax.jit
    def run(variables, inputs, labels, given):
        shown, valid = one_hot(labels, objects)[None], jnp.ones((1, objects), bool)
        predictions, *_ = rollout(model, variables, inputs, shown, valid, given=given)
        return jax.vmap(lambda prediction: model.probabilities(prediction, size))(predictions)

    return run


def says_something(probabilities: np.ndarray) -> bool:
    """Whether answers [T, K+1, H, W] depend on the place and on the frame, and no label is lost."""
    labels = probabilities.argmax(axis=1)
    shares = [(labels == k).mean() for k in range(probabilities.shape[1])]
    spread = probabilities.std(axis=(2, 3)).mean(axis=0)
    change = np.abs(probabilities[-1] - probabilities[0]).max()
    return min(shares) > 0.05 and spread.min() > 0.02 and change > 0.05


def is_steady(
    model: VOSModel, variables: dict[str, Any], frames: np.ndarray, masks: np.ndarray
) -> bool:
    """Whether the rounding of all variables moves the answers for a clip by little.

    Masks are fed back, and some tiny networks of random weights have gains of thousands.
    """
    rng = np.random.default_rng(0)

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.nextafter(x, rng.choice([-np.inf, np.inf], x.shape).astype(x.dtype))

    moved = roll(model, jax.tree.map(rounded, variables), frames, masks)
    return np.abs(moved - roll(model, variables, frames, masks)).max() < CLOSE / 20


def assert_same(found: Answers, expected: Answers) -> None:
    """Probabilities alike, and labels where two of them do not tie within that tolerance."""
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=CLOSE)
    second, first = np.sort(expected[1], axis=1)[:, -2:].swapaxes(0, 1)
    clear = first - second > 2 * CLOSE
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found[0][clear], expected[0][clear])
