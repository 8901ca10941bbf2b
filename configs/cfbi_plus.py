"""CFBI+ (TPAMI 2021): CFBI's matching at three scales of a feature pyramid, atrous at the finest.

    python -m vos_jax.main --config configs/cfbi_plus.py[:PRESET] --workdir DIR

Presets:
    quick          (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small          MobileNetV2 at 240p on folders in the DAVIS layout, for one modest device
    paper          the released configuration: ResNet-101, YouTube-VOS, 465x465 crops
    paper_2x       the same, trained twice as long, as the released weights were
    paper_davis    DAVIS-2017 alone; inference as in the released script for DAVIS
    paper_windows  `paper` with the windows of the paper's table, which differ at stride 16

The authors released the network and the configuration, but no training loop. Sources of the
numbers: "release" = z-x-yang/CFBI (configs/resnet101_cfbip.py, network, evaluator), "trainer" = the
public descendant of its training code (JerryX1110/RPCMVOS), "paper" = arXiv 2010.06349, "ours" =
not settled by any. The paper reports 82.0 on YouTube-VOS 2018 val for `paper` and 82.8 for
`paper_2x`; neither has been trained here. An imported resnet101_cfbip.pth runs under `paper` with
no further flags, resnet101_cfbip_davis.pth (fine-tuned from it, with settings that were not
published) under `paper_davis`; the files were not at hand to verify that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import cfbi as recipe

PRESETS = ("quick", "small", "paper", "paper_2x", "paper_davis", "paper_windows")


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    if preset not in PRESETS:
        raise ValueError(
            f"configs/cfbi_plus.py: no preset {preset!r}; there are {', '.join(PRESETS)}"
        )
    config = recipe.paper(_model())
    if preset == "paper_2x":
        config.train.steps = 200_000
    if preset == "paper_windows":
        config.model.windows = "paper"
    if preset == "paper_davis":
        recipe.restrict_to_davis(config)
        config.inference.min_pixels = 100  # release: --min_matching_pixels 100, for DAVIS only
    if preset == "small":
        recipe.shrink_to_small(config)
        config.model.matching_dims = (16, 32, 64)
    if preset == "quick":
        recipe.shrink_to_quick(config)
        config.model.matching_dims = (8, 16, 32)
    recipe.derive_schedules(config)
    return config


def _model() -> dict:
    """The network of the release."""
    return {
        "name": "cfbi_plus",
        "backbone": "resnet101",  # release
        "width": 1.0,  # of MobileNetV2
        "frozen_backbone": True,  # release: FrozenBatchNorm everywhere
        "frozen": True,
        "momentum": 0.99,  # of live statistics
        "dropout": 0.1,  # release: after the ASPP
        "features": 256,  # release: ASPP, decoder and the pyramid of embeddings
        "head_width": 256,  # release
        "groups": 32,  # release: GroupNorm
        # Of stride 4, 8 and 16.
        "matching_dims": (32, 64, 128),  # release: leading channels of the embeddings
        "windows": "code",  # 2, 4, ..., 10 at stride 16; "paper": 4, 6, 8, 10
        "global_rates": (2, 1, 1),  # release; its evaluator needs --global_atrous_rate 2 for that
        "local_rates": (2, 1, 1),  # release
        "min_pixels": 0,
        "local_halved": False,  # release: every scale at its own resolution
        "matching_bias": True,
        "background_matching": True,
        "background_attention": True,
        "matching_dtype": "float32",  # "float16" is the release's faster option
        "max_long_edge": 1040,  # release: 800 * 1.3
        "short_side": 0,  # frames as they are
        "dtype": "float32",
    }
