"""CFBI+ (TPAMI 2021): CFBI's matching at three scales of a feature pyramid, atrous at the finest.

    python -m vos_jax.main --config configs/cfbi_plus.py[:PRESET] [--workdir DIR]

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
from vos_jax.presets import common

PRESETS = ("quick", "small", "paper", "paper_2x", "paper_davis", "paper_windows")


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/cfbi_plus.py")
    config = recipe.paper("cfbi_plus")
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
