"""ResNets against a PyTorch transcription of torchvision's, and their dilated forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import GOLDEN, golden_parameters
from vos_jax.nn.resnet import Block, ResNet
from vos_jax.official import resnet

SPEC = json.loads((GOLDEN / "resnet" / "spec.json").read_text())
STRIDE = {18: 8, 50: 32}  # of the stored channels


@pytest.fixture(scope="module")
def x():
    """The fixture's input, by its rule: [1, 65, 97, 3]."""
    drawn = np.random.default_rng(SPEC["resnet18"]["seed"]).normal(size=(1, 3, 65, 97))
    return drawn.transpose(0, 2, 3, 1).astype(np.float32)


def _shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))


def _maps(x, **fields):
    model = ResNet(**fields)
    arrays = golden_parameters(SPEC[f"resnet{model.depth}"])
    variables = resnet.from_official(arrays, _shapes(model)).variables
    return jax.jit(model.apply)(variables, x)


@pytest.fixture(scope="module")
def plain(x):
    return {depth: _maps(x, depth=depth) for depth in (18, 50)}


@pytest.mark.parametrize("depth", [18, 50])
def test_every_layer_equals_torchvision(plain, depth):
    golden = np.load(GOLDEN / "resnet" / "case.npz")
    for i, found in enumerate(plain[depth], start=1):
        expected = golden[f"resnet{depth}/layer{i}"]
        np.testing.assert_allclose(found[..., :: STRIDE[depth]], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("depth", "output_stride"), [(18, 8), (50, 8), (50, 16)])
def test_dilated_output_holds_the_strided_one_at_every_nth_pixel(x, plain, depth, output_stride):
    maps = _maps(x, depth=depth, output_stride=output_stride)
    for stride, dense, sparse in zip((4, 8, 16, 32), maps, plain[depth], strict=True):
        n = max(stride // output_stride, 1)
        assert dense.shape[1:3] == tuple(
            -(-side // min(stride, output_stride)) for side in (65, 97)
        )
        np.testing.assert_allclose(dense[:, ::n, ::n], sparse, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)],
)
def test_depths_have_the_parameters_of_torchvision_without_classifier(depth, parameters):
    params = _shapes(ResNet(depth=depth))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_width_multiplies_the_channels_of_every_layer(x):
    maps, _ = ResNet(depth=50, width=0.25).init_with_output(jax.random.key(0), x)
    assert [y.shape[-1] for y in maps] == [64, 128, 256, 512]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_fresh_block_with_live_norms_passes_on_its_input_alone(bottleneck):
    x = jax.random.uniform(jax.random.key(0), (2, 9, 9, 16))
    features = 4 if bottleneck else 16
    live, _ = Block(features, bottleneck, norm_eval=False).init_with_output(
        jax.random.key(1), x, True
    )
    frozen, _ = Block(features, bottleneck).init_with_output(jax.random.key(1), x)
    np.testing.assert_array_equal(live, x)
    assert np.abs(frozen - x).max() > 0.1


def test_extra_planes_are_added_before_the_first_norm_and_share_the_frame():
    """As one convolution of all planes, for two sets of planes per frame."""
    rng = np.random.default_rng(0)
    frames, planes = rng.normal(size=(2, 33, 33, 3)), rng.normal(size=(4, 33, 33, 2))
    model = ResNet(depth=18, layers=1)
    inputs = jnp.concatenate([jnp.repeat(jnp.asarray(frames), 2, axis=0), planes], axis=-1)
    variables = model.init(jax.random.key(0), inputs)
    (expected,) = model.apply(variables, inputs)
    kernel = variables["params"]["conv1"]["kernel"]
    extra = jax.lax.conv_general_dilated(
        jnp.asarray(planes, jnp.float32),
        kernel[:, :, 3:],
        (2, 2),
        [(3, 3), (3, 3)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    variables["params"]["conv1"] = {"kernel": kernel[:, :, :3]}
    (found,) = model.apply(variables, jnp.asarray(frames), extra=extra)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_live_statistics_move_only_when_not_frozen(x):
    for frozen in (True, False):
        model = ResNet(depth=18, layers=1, norm_eval=frozen)
        variables = model.init(jax.random.key(0), x)
        _, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
        same = jax.tree.map(np.array_equal, updated, {"batch_stats": variables["batch_stats"]})
        assert jax.tree.all(same) == frozen


@pytest.mark.parametrize("fields", [{"depth": 20}, {"output_stride": 4}])
def test_unknown_depth_and_output_stride_are_refused(fields):
    (name, value) = next(iter(fields.items()))
    with pytest.raises(ValueError, match=f"{name}: expected .* found {value}"):
        _shapes(ResNet(**fields))
