"""CFBI (ECCV 2020): background matched and attended to as thoroughly as the objects.

    python -m vos_jax.main --config configs/cfbi.py[:PRESET] [--workdir DIR]

Presets:
    quick         (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small         MobileNetV2 at 240p on folders in the DAVIS layout, for one modest device
    paper         the released configuration: ResNet-101, YouTube-VOS, 465x465 crops
    paper_davis   DAVIS-2017 alone, as in the paper's ablations
    ablation_background_*
                  the background embedding (table 4 of the CFBI+ paper), made of `paper_davis`:
                  full, no_bias, matching (alone), attention (alone), none;
                  ablation_background_*_quick is made of `quick`
    ablation_global_1..4, ablation_local_1..4
                  atrous matching with this factor (its table 5), made of `paper`: global or
                  multi-local matching; only inference differs, so one training serves all

The authors released the network and the configuration, but no training loop. Sources of the
numbers: "release" = z-x-yang/CFBI (configs/resnet101_cfbi.py, network, evaluator), "trainer" = the
public descendant of its training code (JerryX1110/RPCMVOS), "paper" = arXiv 2003.08333 and
2010.06349, "ours" = not settled by any. The papers report 81.4 on YouTube-VOS 2018 val for `paper`
and J&F 74.9 on DAVIS-2017 val for `paper_davis`; neither has been trained here. An imported
resnet101_cfbi.pth runs under `paper` with no further flags; the file was not at hand to verify
that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import cfbi as recipe
from vos_jax.presets import common

# Table 4: background in pixel-level matching, in instance-level attention, biases of the distances.
BACKGROUND = {
    "ablation_background_full": (True, True, True),
    "ablation_background_no_bias": (True, True, False),
    "ablation_background_matching": (True, False, True),
    "ablation_background_attention": (False, True, True),
    "ablation_background_none": (False, False, True),
}
# Table 5: which matching is atrous, and its factor.
ATROUS = {
    f"ablation_{kind}_{rate}": (f"{kind}_rates", rate)
    for kind in ("global", "local")
    for rate in (1, 2, 3, 4)
}
PRESETS = (
    *("quick", "small", "paper", "paper_davis", *BACKGROUND, *ATROUS),
    *(f"{row}_quick" for row in BACKGROUND),
)


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/cfbi.py")
    config = recipe.paper("cfbi")
    if preset == "paper_davis" or preset in BACKGROUND:
        recipe.restrict_to_davis(config)
    if preset == "small":
        recipe.shrink_to_small(config)
        config.model.update({"embedding_dim": 48, "matching_dims": (48,)})
    if preset.endswith("quick"):
        recipe.shrink_to_quick(config)
        config.model.update({"embedding_dim": 16, "matching_dims": (16,)})
    recipe.derive_schedules(config)
    row = preset.removesuffix("_quick")
    if row in BACKGROUND:
        switches = ("background_matching", "background_attention", "matching_bias")
        config.model.update(dict(zip(switches, BACKGROUND[row], strict=True)))
    if row in ATROUS:
        field, rate = ATROUS[row]
        config.inference[field] = (rate,)
    return config
