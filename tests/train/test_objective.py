"""Whose masks are remembered in training, on a model that answers with what it remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.systems.base import VOSModel
from vos_jax.train.objective import make_objective

T = 6  # frames; more than 3 predicted ones are a loop, fewer are not


class Echo(VOSModel):
    """The prediction for a frame is the masks it remembers; its loss is their object's area."""

    def encode(self, inputs, train=False):
        return inputs.mean(axis=(1, 2))

    def start(self, features, masks, valid, num_references=1, train=False):
        return masks

    def segment(self, memory, features, train=False):
        return memory

    def memorize(self, memory, features, prediction, masks):
        return masks

    def probabilities(self, prediction, size):
        return prediction

    def losses(self, predictions, batch, step):
        return predictions[:, :, 1].sum(axis=(0, 2, 3))


def batch(frames):
    """One clip whose object has 2^t pixels in frame t."""
    masks = np.zeros((1, frames, 8, 8), np.uint8)
    for t in range(frames):
        masks[0, t].flat[: 2**t] = 1
    inputs = np.zeros((1, frames, 8, 8, 3), np.float32)
    return {"frames": inputs, "labels": masks, "valid": np.ones((1, 1), bool)}


@pytest.mark.parametrize("frames", [4, T])
@pytest.mark.parametrize("num_given", [1, 2])
def test_true_masks_are_remembered_while_forced_and_own_ones_from_then_on(frames, num_given):
    train = {"num_given": num_given, "teacher_forcing_steps": 3, "frames_apart": False}
    objective = jax.jit(make_objective(Echo(), train, {}))

    def loss(step):
        return objective({}, batch(frames), jnp.int32(step), jax.random.key(0))[0][0]

    forced = sum(2**t for t in range(num_given - 1, frames - 1))
    alone = (frames - num_given) * 2 ** (num_given - 1)
    assert [loss(step) for step in (0, 2, 3, 100)] == [forced, forced, alone, alone]
    assert objective._cache_size() == 1


def test_without_teacher_forcing_true_masks_of_later_frames_are_not_even_looked_at():
    def loss(masks, forced_steps):
        train = {"num_given": 1, "teacher_forcing_steps": forced_steps, "frames_apart": False}
        objective = make_objective(Echo(), train, {})
        data = {**batch(T), "labels": masks}
        return objective({}, data, jnp.int32(9), jax.random.key(0))[0]

    masks = batch(T)["labels"]
    programs = [str(jax.make_jaxpr(lambda m, n=n: loss(m, n))(masks)) for n in (0, 3)]
    assert len(programs[0]) < len(programs[1])
    np.testing.assert_array_equal(loss(masks, 0), loss(masks, 3))  # and step 9 is past 3


class Bright(Echo):
    """Its loss is the brightness of what it is shown, in the frames and in the batch."""

    def start(self, features, masks, valid, num_references=1, train=False):
        assert features.dtype == jnp.float32
        return masks * features.mean()

    def losses(self, predictions, batch, step):
        assert batch["frames"].dtype == jnp.float32
        return super().losses(predictions, batch, step) + batch["frames"].mean(axis=(1, 2, 3, 4))


@pytest.mark.parametrize("transport", ["float16", "uint8"])
def test_the_model_gets_float32_whatever_dtype_frames_travelled_in(transport):
    train = {"num_given": 1, "teacher_forcing_steps": 0, "frames_apart": False}
    objective = make_objective(Bright(), train, {})
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 8, 3)).astype(np.float32)

    def loss(frames):
        return objective({}, {**batch(4), "frames": frames}, jnp.int32(0), jax.random.key(0))[0]

    np.testing.assert_array_equal(loss(frames.astype(transport)), loss(frames))
    assert loss(frames) > 100
