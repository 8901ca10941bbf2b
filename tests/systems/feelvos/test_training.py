"""Training of FEELVOS with its real objective: devices, the mining schedule, half precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.eight_devices import eight_devices
from tests.systems.feelvos import sharded
from tests.systems.feelvos.encoded import Encoded
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.objective import make_objective
from vos_jax.train.partition import shard_batch


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="module", autouse=True)
def on_eight_devices(tmp_path_factory):
    """A process that takes a step on 8 fake devices while other tests run: call it for arrays."""
    out = tmp_path_factory.mktemp("devices") / "after"
    with eight_devices("tests.systems.feelvos.sharded", out) as finished:

        def arrays(mesh):
            finished()
            return dict(np.load(f"{out}_{mesh}.npz"))

        yield arrays


@pytest.fixture(scope="module")
def config():
    return sharded.sgd_config()


@pytest.fixture(scope="module")
def batch(config):
    return tiny.examples(config, sharded.ROWS)


@pytest.fixture(scope="module")
def single(config):
    """(state, train step, mesh) on one device."""
    return sharded.training(config, 1, 1)


def named(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def take_step(single, batch, number=0):
    state, step, mesh = single
    state = jax.tree.map(jnp.copy, state).replace(step=jnp.int32(number))  # the step donates it
    return step(state, shard_batch(batch, mesh))


@pytest.fixture(scope="module")
def after_one_step(single, batch):
    state, metrics = take_step(single, batch)
    return named({"state": state, "losses": metrics["losses"]})


def distance(a, b) -> float:
    """Norm of a - b relative to that of a, which counts as at least 0.01.

    Some gradients are truly 0 (all logits moved by the same, a shift before BatchNorm), and only
    rounding is left of them.
    """
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 0.01))


def distances_by_array(arrays, others):
    gradients = [path for path in arrays if ".trace" in path]
    assert len(gradients) > 60
    return {path: distance(arrays[path], others[path]) for path in gradients}


def test_one_compilation_over_the_whole_mining_schedule(single, batch):
    losses = [take_step(single, batch, step)[1]["loss"] for step in (0, 5, 10**6)]
    assert single[1]._cache_size() == 1
    assert losses[2] > 1.2 * losses[0]  # the mean of the hardest pixels alone


@pytest.fixture(scope="module")
def gradients(config):
    """dtype -> losses [B] and their gradients for the head, features and embeddings.

    The features are random.
    """
    model = build_model(config.model)
    head = tiny.lively(variable_shapes(model), sharded.SEED)["params"]["head"]
    split = config.model.features
    shape = (sharded.ROWS, 3, 12, 12, split + config.model.embedding_dim)
    inputs = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    fields = {name: value for name, value in config.model.items() if name != "name"}

    @functools.partial(jax.jit, static_argnames="dtype")
    def losses_and_gradients(head, inputs, masks, valid, dtype):
        model = Encoded(**{**fields, "dtype": dtype})
        objective = make_objective(model, config.train, config.loss)

        def loss(head, inputs):
            batch = {"frames": inputs, "labels": masks, "valid": valid}
            given = {"params": {"head": head}}
            losses, _, _ = objective(given, batch, jnp.int32(50), jax.random.key(1))
            return losses.sum(), losses

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(head, inputs)

    def compute(batch, dtype):
        (of_head, of_inputs), losses = losses_and_gradients(
            head, inputs, batch["labels"], batch["valid"], dtype
        )
        parts = {"features": of_inputs[..., :split], "embeddings": of_inputs[..., split:]}
        return np.asarray(losses), named({"head": of_head, **parts})

    return compute


def test_bfloat16_trains_almost_as_float32(gradients, batch):
    losses, expected = gradients(batch, "float32")
    norms = {path: np.linalg.norm(gradient) for path, gradient in expected.items()}
    assert min(norm for path, norm in norms.items() if "['logits']['bias']" not in path) > 0.1
    half_losses, found = gradients(batch, "bfloat16")
    np.testing.assert_allclose(half_losses, losses, rtol=0.05)
    for path, gradient in expected.items():
        assert np.isfinite(found[path]).all(), path
        assert distance(gradient, found[path]) < 0.2, path


@pytest.mark.parametrize("mesh", sharded.MESHES)
def test_eight_devices_train_as_one_does(on_eight_devices, after_one_step, single, batch, mesh):
    arrays = on_eight_devices(mesh)
    split = arrays.pop("split")
    assert split > 200 if mesh == "fsdp" else split == 0
    assert arrays.keys() == after_one_step.keys()
    for path, value in after_one_step.items():
        # What goes forward is continuous: only rounding is left.
        if ".trace" not in path:
            tolerance = 1e-4 * np.abs(value).max() + 1e-6
            np.testing.assert_allclose(arrays[path], value, rtol=0, atol=tolerance, err_msg=path)
    # A ReLU whose input is within rounding of 0 may pass its gradient on one mesh and not on the
    # other, which shows on these few pixels, below that ReLU and in small arrays most. A wrong
    # mean or a BatchNorm of one device's rows would change nearly every array by much more.
    found = distances_by_array(after_one_step, arrays)
    assert max(found.values()) < 0.2, max(found, key=found.get)
    assert np.median(list(found.values())) < 0.02
    other = {key: np.concatenate([rows[1:], rows[1:2]]) for key, rows in batch.items()}
    state, _ = take_step(single, other)
    control = distances_by_array(after_one_step, named({"state": state}))
    assert np.median(list(control.values())) > 0.2  # one other row of eight shows
