"""What every system of SYSTEMS promises about training: losses, gradients, numbers, a whole run."""

import json
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util
from jax.extend.core import jaxprs_in_params
from jax.extend.core.primitives import remat_p

from tests import tiny
from tests.stopping import stopped_by_sigterm
from tests.systems.promises import promise
from vos_jax import main as command
from vos_jax.data.masks import read_mask
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.train.objective import make_objective
from vos_jax.train.optim import fits
from vos_jax.train.setup import build_training

# Largest difference of gradients, as a share of the largest one in the array: a ReLU whose input is
# within rounding of 0 passes its gradient in one program and not in the other, and then one of a
# few thousand pixels counts or does not. A padded slot that takes part changes all of them.
CLOSE = 1e-2
# Cosine of gradients in bfloat16 and float32. Unrelated ones of so many parameters have one near 0.
# That of CFBI is 0.65, and 0.70 in float32 with parameters and frames of eight bits: rounding makes
# other pixels the nearest ones.
ALIKE = 0.3
LOGITS = re.compile("logits|pred2|predictor")  # names of layers whose results are float32
SMALLEST = 1e-4  # an array's largest gradient counts as at least this share of all arrays' largest


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="module")
def config(system):
    yield tiny.get_config(system)
    tiny.unload_programs()  # before the next system


@pytest.fixture(scope="module")
def batch(config):
    """Masks and valid slots: a clip with one object and, where there is room, one with two."""
    examples = tiny.examples(config, 24)
    counts = examples["valid"].sum(axis=1)
    wanted = (1, 2) if counts.max() > 1 else (1,)
    chosen = [int(np.flatnonzero(counts == n)[0]) for n in wanted]
    chosen += [1] * (2 - len(chosen))
    return {key: rows[chosen] for key, rows in examples.items()}


@pytest.fixture(scope="module")
def gradients(system, config):
    return gradient_function(system, config.train, config.loss)


def gradient_function(system, train, loss_settings, **fields):
    """Function of a batch -> losses [B] and gradients of what is not a backbone's, by path.

    In the released form, whose normalisations keep their statistics; dropout and sampling are on.
    fields: of the model.
    """
    model, variables = tiny.tiny_system(system, **fields)
    scopes = tuple("/".join(scope) + "/" for scope in model.traits.backbone_scopes)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    trained = {path: x for path, x in flat.items() if not path.startswith(scopes)}
    frozen = {path: x for path, x in flat.items() if path.startswith(scopes)}
    objective = make_objective(model, train, loss_settings)

    @jax.jit
    def run(trained, frozen, statistics, batch):
        def loss(trained):
            params = traverse_util.unflatten_dict({**frozen, **trained}, sep="/")
            whole = {"params": params, **statistics}
            losses, *_ = objective(whole, batch, jnp.int32(50), jax.random.key(1))
            return losses.sum(), losses

        (_, losses), found = jax.value_and_grad(loss, has_aux=True)(trained)
        return losses, found

    statistics = {name: x for name, x in variables.items() if name != "params"}
    return lambda batch: jax.device_get(run(trained, frozen, statistics, batch))


@pytest.fixture(scope="module")
def expected(gradients, batch):
    losses, found = gradients(batch)
    assert losses.min() > 0.1
    largest = {path: np.abs(x).max() for path, x in found.items()}
    # some are truly 0, such as those of a bias that moves all logits alike
    assert np.mean([x > SMALLEST * max(largest.values()) for x in largest.values()]) > 0.5
    return losses, found


def equations(jaxpr):
    """Those of a program and of all programs in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    floor = SMALLEST * max(np.abs(x).max() for x in expected[1].values())
    for path, x in expected[1].items():
        atol = CLOSE * max(np.abs(x).max(), floor)
        np.testing.assert_allclose(found[1][path], x, rtol=0, atol=atol, err_msg=path)


@promise
def test_padded_slots_change_neither_losses_nor_gradients(system, gradients, batch, expected):
    padded = np.pad(batch["valid"], ((0, 0), (0, 2)))
    assert_same(gradients({**batch, "valid": padded}), expected)


@promise
def test_permuted_ids_give_the_same_losses_and_gradients(system, gradients, batch, expected):
    order = np.arange(256, dtype=np.uint8)
    order[[1, 2]] = [2, 1]
    swapped = {"labels": order[batch["labels"]], "valid": batch["valid"][:, ::-1]}
    assert_same(gradients({**batch, **swapped}), expected)


@pytest.fixture(scope="module")
def short(batch, config):
    """The clips with one frame after those that are shown: more make no other program."""
    frames = config.train.num_given + 1
    return {**batch, **{key: batch[key][:, :frames] for key in ("frames", "labels")}}


@pytest.fixture(scope="module")
def expected_short(gradients, short):
    return gradients(short)


@promise
def test_recomputed_blocks_change_nothing_but_what_is_kept(system, config, short):
    """The same operations on the same shapes; tests/nn/test_remat.py compares gradients."""
    model, variables = tiny.tiny_system(system)

    def operations(remat):
        objective = make_objective(model, {**config.train, "remat": remat}, config.loss)
        program = jax.make_jaxpr(lambda *arguments: objective(*arguments)[:2])
        jaxpr = program(variables, short, jnp.int32(50), jax.random.key(1)).jaxpr
        kinds = [(e.primitive.name, str([x.aval for x in e.outvars])) for e in equations(jaxpr)]
        return Counter(kinds)

    usual, recomputing = operations("none"), operations("blocks")
    assert not usual - recomputing
    blocks = recomputing - usual
    assert {name for name, _ in blocks} == {remat_p.name}
    assert blocks.total() > 10


@promise
def test_bfloat16_gradients_point_where_float32_ones_do(system, config, short, expected_short):
    train = {**config.train, "remat": "blocks"}
    losses, found = gradient_function(system, train, config.loss, dtype="bfloat16")(short)
    np.testing.assert_allclose(losses, expected_short[0], rtol=0.05)
    halved, whole = (
        np.concatenate([x[path].ravel() for path in sorted(found)])
        for x in (found, expected_short[1])
    )
    assert np.isfinite(halved).all()
    assert halved @ whole > ALIKE * np.linalg.norm(halved) * np.linalg.norm(whole)


@promise
def test_in_bfloat16_every_convolution_multiplies_bfloat16(system, config, short, monkeypatch):
    """Forward and backward, as on an accelerator; layers that make logits alone do not."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    model, variables = tiny.tiny_system(system, dtype="bfloat16")
    objective = make_objective(model, config.train, config.loss)

    def loss(params):
        whole = {**variables, "params": params}
        return objective(whole, short, jnp.int32(50), jax.random.key(1))[0].sum()

    convolutions = 0
    for equation in equations(jax.make_jaxpr(jax.grad(loss))(variables["params"]).jaxpr):
        where = equation.source_info
        files = {Path(frame.file_name).name for frame in where.traceback.frames}
        of_convolution = equation.primitive.name == "dot_general" and "convolution.py" in files
        if of_convolution or equation.primitive.name == "conv_general_dilated":
            convolutions += 1
            kinds = {x.aval.dtype.name for x in (*equation.invars, *equation.outvars)}
            assert kinds == {"bfloat16"} or LOGITS.search(str(where.name_stack)), where
    assert convolutions > 50


@promise
def test_in_bfloat16_state_and_losses_stay_float32(system, config, batch):
    """Parameters, statistics, their average and the optimizer; by their types alone."""
    config = config.copy_and_resolve_references()
    config.model.dtype = "bfloat16"
    training = build_training(config, tiny.lively(variable_shapes(build_model(config.model))))
    state, step = training.state, training.step
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    kinds = {x.dtype.name for x in jax.tree.leaves((after, metrics))}
    assert "float32" in kinds and "bfloat16" not in kinds


@promise
def test_a_run_trains_stops_goes_on_where_it_was_and_is_scored(
    system, config, tmp_path, monkeypatch
):
    call = ["main", f"--config={tiny.__file__}:{system}", f"--workdir={tmp_path}"]
    stopped_by_sigterm(monkeypatch, lambda: command.main([*call, "--mode=train"]))
    assert [step.name for step in (tmp_path / "last").iterdir()] == ["2"]
    before = _params(tmp_path / "last/2")
    command.main(call)

    lines = (tmp_path / "logs/metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [line["resumed_from"] for line in lines if "resumed_from" in line] == [2]
    trained = [line for line in lines if line.get("kind") == "train"]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in trained)
    after = _params(tmp_path / "last/4")
    trainable = {path for path in after if not fits(config.optim.freeze, path)}
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved <= trainable
    modules, moving = ({path.split("/")[0] for path in paths} for paths in (trainable, moved))
    assert moving == modules

    results = tmp_path / "results/step_4"
    scores = json.loads((results / "scores.json").read_text())["metrics"]
    assert 0 <= scores["J&F-Mean"] <= 1
    masks = sorted((results / "masks/test-0000").iterdir())
    assert [file.name for file in masks] == [f"{t:05d}.png" for t in range(tiny.TEST_FRAMES)]
    assert read_mask(masks[-1]).shape == (96, 160)


def _params(step: Path) -> dict[str, np.ndarray]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        params = checkpointer.restore(step / "variables")["params"]
    return traverse_util.flatten_dict(params, sep="/")
