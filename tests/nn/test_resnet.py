"""ResNets against a PyTorch transcription of torchvision's, and their dilated forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.fixtures import GOLDEN, golden_parameters
from vos_jax.nn.mobilenet_v2 import MobileNetV2
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


@pytest.mark.parametrize("backbone", [ResNet(depth=18, layers=1), MobileNetV2(width=0.25)])
def test_planes_may_be_added_between_stem_and_body_that_several_share_the_frame(backbone):
    """As one convolution of all planes, for two sets of planes per frame."""
    rng = np.random.default_rng(0)
    frames, planes = rng.normal(size=(2, 33, 33, 3)), rng.normal(size=(4, 33, 33, 2))
    inputs = jnp.concatenate([jnp.repeat(jnp.asarray(frames), 2, axis=0), planes], axis=-1)
    variables = backbone.init(jax.random.key(0), inputs)
    expected = backbone.apply(variables, inputs)
    stem = variables["params"].get("conv1") or variables["params"]["features_0"]["conv"]
    size, channels = backbone.stem_kernel
    assert stem["kernel"].shape == (size, size, 5, channels)
    own = jax.lax.conv_general_dilated(
        jnp.asarray(planes, jnp.float32),
        stem["kernel"][:, :, 3:],
        (2, 2),
        [(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    stem["kernel"] = stem["kernel"][:, :, :3]
    shared = backbone.apply(variables, jnp.asarray(frames), method="stem")
    found = backbone.apply(variables, jnp.repeat(shared, 2, axis=0) + own, method="body")
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max())


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


def test_groups_and_their_width_are_those_of_resnext():
    """torchvision's resnext101_64x4d has 83,455,272 parameters, 2,049,000 in its classifier."""
    params = _shapes(ResNet(depth=101, groups=64, group_width=4))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 83_455_272 - 2_049_000
    with pytest.raises(ValueError, match="ResNet-18 has no bottlenecks"):
        _shapes(ResNet(depth=18, groups=2))


def test_epsilon_reaches_every_norm(x):
    model, small = ResNet(depth=18, layers=1, epsilon=1.0), x[:, :17, :17]
    variables = model.init(jax.random.key(0), small)

    def raised(path, leaf):  # a variance of 1 with an epsilon of 1 is one of 2 without
        return leaf + 1 if path[-1].key == "var" else leaf

    other = jax.tree_util.tree_map_with_path(raised, variables)
    without = ResNet(depth=18, layers=1, epsilon=0.0)
    found, expected = model.apply(variables, small)[0], without.apply(other, small)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
