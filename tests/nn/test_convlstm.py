"""The cell of RSIS and RVOS against the released ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import load_npz
from vos_jax.nn.convlstm import ConvLSTM, convolve, lstm_update
from vos_jax.official import naming

# what the released cells are given besides their input: states of other steps
STATES = {
    "none": (),
    "spatial": ("spatial",),
    "temporal": ("temporal",),
    "both": ("spatial", "temporal"),
}


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("cell", ["cell", "cellmask"])
def test_a_step_equals_the_released_cell(cell, states):
    golden = load_npz("rvos", "ops")
    names = {"x": "below", "mask": "mask", "hs": "spatial", "ht": "temporal"}
    if cell == "cell":
        del names["mask"]
    maps = {ours: np.moveaxis(golden[f"{cell}_{name}"], 1, -1) for name, ours in names.items()}
    module = ConvLSTM(4, {name: x.shape[-1] for name, x in maps.items()})
    kernel = naming.kernel_from_torch(golden[f"{cell}_Gates.weight"])
    bias = golden[f"{cell}_Gates.bias"]
    kernels, bias = module.apply({"params": {"kernel": kernel, "bias": bias}})
    seen = {"below", "mask", *STATES[states]} & maps.keys()
    gates = bias + sum(convolve(maps[name], kernels[name]) for name in seen)
    before = np.moveaxis(golden[f"{cell}_cs"], 1, -1)
    if "spatial" not in STATES[states]:
        before = np.zeros_like(before)
    found = lstm_update(gates, before)
    for ours, name in zip(found, ("h", "c"), strict=True):
        expected = np.moveaxis(golden[f"{cell}_out_{states}_{name}"], 1, -1)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_parts_of_a_kernel_convolve_to_what_the_whole_gives_for_maps_side_by_side():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, 3, 5, 6, c)), jnp.float32) for c in (3, 1, 4)]
    module = ConvLSTM(4, {str(i): x.shape[-1] for i, x in enumerate(maps)})
    variables = module.init(jax.random.key(0))
    kernels, _ = module.apply(variables)
    parts = sum(convolve(x, kernels[str(i)]) for i, x in enumerate(maps))
    whole = convolve(jnp.concatenate(maps, axis=-1), variables["params"]["kernel"])
    assert parts.shape == (2, 3, 5, 6, 16)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_in_bfloat16_the_cell_stays_float32():
    module = ConvLSTM(4, {"below": 3}, dtype=jnp.bfloat16)
    kernels, bias = module.apply(module.init(jax.random.key(0)))
    gates = convolve(jnp.ones((1, 5, 6, 3)), kernels["below"]) + bias
    assert gates.dtype == jnp.bfloat16
    assert {x.dtype.name for x in lstm_update(gates, jnp.zeros((1, 5, 6, 4)))} == {"float32"}


def test_maps_count_alike_in_a_fresh_cell_however_many_channels_they_have():
    channels = {"below": 200, "mask": 1, "spatial": 20}
    module = ConvLSTM(64, channels)
    kernels, bias = module.apply(module.init(jax.random.key(0)))
    assert np.all(bias == 0)
    for name, count in channels.items():
        share = 9 * count * np.var(kernels[name])
        np.testing.assert_allclose(share, 1 / 3, rtol=0.1)
