"""Clips so long that their frames are a loop, with `train.remat`."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.systems.toys import Recurrent
from tests.tiny import lively
from vos_jax.systems.build import variable_shapes
from vos_jax.train.objective import make_objective

MODEL = Recurrent()
VARIABLES = lively(variable_shapes(MODEL))


def loss_of(remat, frames):
    """Loss of the parameters, and statistics after it, for one clip of random frames."""
    train = {"num_given": 0, "teacher_forcing_steps": 0, "frames_apart": False, "remat": remat}
    objective = make_objective(MODEL, train, {})
    rng = np.random.default_rng(0)
    batch = {
        "frames": rng.uniform(0, 255, (1, frames, 16, 16, 3)).astype(np.float32),
        "labels": rng.integers(0, 3, (1, frames, 16, 16)).astype(np.uint8),
        "valid": np.ones((1, 2), bool),
    }

    def loss(params):
        variables = {**VARIABLES, "params": params}
        losses, statistics, _ = objective(variables, batch, jnp.int32(0), jax.random.key(0))
        return losses.sum(), statistics

    return loss


def test_recomputed_frames_give_the_same_gradients_and_statistics():
    expected, found = (
        jax.jit(jax.value_and_grad(loss_of(remat, 6), has_aux=True))(VARIABLES["params"])
        for remat in ("none", "blocks")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )
    assert not np.allclose(found[0][1]["norm"]["mean"], VARIABLES["batch_stats"]["norm"]["mean"])


def test_of_a_recomputed_frame_only_what_it_hands_on_is_kept():
    def kept(remat, frames):
        loss = loss_of(remat, frames)
        residuals = jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], VARIABLES["params"])
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))

    usual, recomputed = (kept(remat, 16) - kept(remat, 8) for remat in ("none", "blocks"))
    assert 0 < recomputed < 0.7 * usual  # features and losses are kept either way
