"""What CFBI and CFBI+ alone promise, on small networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import quick_compilation, tiny_section, tiny_system
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.cfbi.model import CFBI
from vos_jax.systems.cfbi.plus import CFBIPlus
from vos_jax.train.optim import parameter_paths

SYSTEMS = ("cfbi", "cfbi_plus")


@pytest.fixture(scope="module")
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module", params=SYSTEMS)
def tiny(request, quickly):
    """A small model and lively variables."""
    return tiny_system(request.param)


def test_masks_are_fed_back_hard():
    assert not CFBI().traits.soft_feedback and not CFBIPlus().traits.soft_feedback


def test_frame_of_a_new_object_is_a_reference_for_all_objects(tiny, clip):
    """With the masks that stand for it, and for no other video of the batch."""
    model, variables = tiny
    frames, masks = clip
    inputs = jnp.stack([model.preprocess(frame) for frame in frames[:2]])[:, None].repeat(2, axis=1)
    labels = one_hot(jnp.asarray(masks[:2]), 2)[:, None].repeat(2, axis=1)

    @jax.jit
    def run(variables):
        def apply(method, *args):
            return model.apply(variables, *args, method=method)

        features = [apply(model.encode, x) for x in inputs]
        memory = apply(model.start, features[0], labels[0], jnp.asarray([[True, False]] * 2), 2)
        memory = apply(model.memorize, memory, features[1], None, labels[1])
        new = jnp.asarray([[False, True], [False, False]])
        return memory, apply(model.introduce, memory, features[1], labels[1], new)

    before, after = run(variables)
    assert after.present.tolist() == [[True, True, True], [True, True, False]]
    for old, found in zip(before.reference_labels, after.reference_labels, strict=True):
        pixels = found.shape[1] // 2
        assert set(np.unique(found[0, pixels:])) == {0, 1, 2}
        assert np.all(found[1, pixels:] == -1)
        np.testing.assert_array_equal(found[:, :pixels], old[:, :pixels])
    ratio = after.reference_sums.pixels / before.reference_sums.pixels
    assert ratio.tolist() == [2, 1] and after.reference_sums.counts[0, 2] > 0
    np.testing.assert_array_equal(after.reference_sums.sums[1], before.reference_sums.sums[1])


ABLATIONS = {
    "background_matching": (False, {"prehead/conv": -4}),
    "background_attention": (False, {"ensembler/stage1_gate1/linear": -16}),
    "matching_bias": (False, {}),
}


@pytest.mark.parametrize("field", ABLATIONS)
def test_ablation_takes_its_share_of_the_input_away(field, quickly):
    value, removed = ABLATIONS[field]
    model = build_model(tiny_section("cfbi"))
    shapes = [
        dict(zip(parameter_paths(v), jax.tree.leaves(v), strict=True))
        for v in (variable_shapes(m)["params"] for m in (model, model.clone(**{field: value})))
    ]
    gone = shapes[0].keys() - shapes[1].keys()
    assert gone == ({"background_bias", "foreground_bias"} if field == "matching_bias" else set())
    for layer, channels in removed.items():
        kernels = [s[f"{layer}/kernel"].shape[-2] for s in shapes]
        assert kernels[1] - kernels[0] == channels


@pytest.mark.parametrize("field", ["matching_dims", "global_rates", "local_rates"])
def test_settings_of_another_number_of_scales_are_refused(field):
    model = build_model(tiny_section("cfbi_plus", **{field: (1, 2)}))
    with pytest.raises(ValueError, match=f"config.model.{field}: expected 3 entries"):
        variable_shapes(model)
