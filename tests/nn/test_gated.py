"""Channel gates against the released code of CFBI, and what an idle gate does."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.fixtures import load_npz
from vos_jax.nn.gated import GCT, VectorGate, gated

GOLDEN = load_npz("cfbi", "ops")


def test_gct_equals_the_released_code():
    params = {name: GOLDEN[f"in_gct_{name}"] for name in ("alpha", "gamma", "beta")}
    x = jnp.asarray(GOLDEN["in_cur"])[None]
    found = gated(x, GCT().apply({"params": params}, x))[0]
    np.testing.assert_allclose(jnp.moveaxis(found, -1, 0), GOLDEN["gct_out"], atol=5e-6)


def test_gct_passes_zeros_on_with_a_finite_gradient():
    params = {name: jnp.asarray(GOLDEN[f"in_gct_{name}"]) for name in ("alpha", "gamma", "beta")}
    x = jnp.zeros((1, 3, 3, 16))
    gradients = jax.grad(lambda p: GCT().apply({"params": p}, x).sum())(params)
    assert np.all(gated(x, GCT().apply({"params": params}, x)) == 0)
    assert jax.tree.all(jax.tree.map(lambda g: np.isfinite(g).all(), gradients))


def test_vector_gate_equals_the_released_code():
    params = {"linear": {"kernel": GOLDEN["in_ia_weight"].T, "bias": GOLDEN["in_ia_bias"]}}
    expected = GOLDEN["ia_out"]
    vectors = jnp.asarray(GOLDEN["att_eval_1ref"])[: len(expected)]
    x = jnp.asarray(GOLDEN["in_cur"])[None].repeat(len(expected), axis=0)
    found = gated(x, VectorGate(x.shape[-1]).apply({"params": params}, vectors))
    np.testing.assert_allclose(jnp.moveaxis(found, -1, 1), expected, atol=5e-6)


def test_fresh_gct_and_idle_vector_gate_change_nothing():
    x = jnp.asarray(GOLDEN["in_cur"])[None]
    module = GCT()
    np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), x), x), 1)
    module, vector = VectorGate(x.shape[-1]), jnp.ones((1, 5))
    variables = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), vector))
    np.testing.assert_array_equal(module.apply(variables, vector), 1)


def test_gated_keeps_bfloat16():
    x = jnp.ones((1, 2, 2, 3), jnp.bfloat16)
    found = gated(x, jnp.full((1, 3), 1.001))
    assert found.dtype == jnp.bfloat16
    assert np.all(found == 1)
