"""FEELVOS (CVPR 2019): embeddings matched to the first and the previous frame.

    python -m vos_jax.main --config configs/feelvos.py[:PRESET] [--workdir DIR]

Presets:
    quick         (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small         MobileNetV2 at 240p on folders in the DAVIS layout, for one modest device
    paper         the released run: Xception-65, DAVIS-2017 + YouTube-VOS, 465x465 crops
    paper_davis   the same on DAVIS-2017 alone
    ablation_1..6 the rows of the paper's ablation table (DAVIS-2017 alone, different cues)

Sources of the numbers: "release" = tensorflow/models research/feelvos (train.sh, eval.sh and the
code they call); "paper" = arXiv 1902.09513, which reports J&F 71.5 on DAVIS-2017 val for `paper`
and 69.1 for `paper_davis`; neither has been trained here. Imported release checkpoints run under
`paper` with no further flags; no official file was at hand to verify that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common

# Cues of the ablation rows: first-frame global, previous-frame local, previous-frame global,
# previous prediction.
ABLATION = {
    "ablation_1": (True, True, False, True),
    "ablation_2": (True, False, True, True),
    "ablation_3": (True, False, False, True),
    "ablation_4": (True, False, False, False),
    "ablation_5": (True, True, False, False),
    "ablation_6": (False, True, False, True),
}
PRESETS = ("quick", "small", "paper", "paper_davis", *ABLATION)


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/feelvos.py")
    config = _paper()
    if preset == "paper_davis" or preset in ABLATION:
        del config.data.train["youtube_vos"]
    if preset in ABLATION:
        cues = (
            "first_frame_global",
            "previous_frame_local",
            "previous_frame_global",
            "previous_prediction",
        )
        config.model.update(dict(zip(cues, ABLATION[preset], strict=True)))
    if preset == "small":
        _shrink_to_small(config)
    if preset == "quick":
        _shrink_to_quick(config)
    return config


def _paper() -> ConfigDict:
    """The released run on DAVIS-2017 and YouTube-VOS.

    release: init.backbone is Xception-65 with ImageNet + COCO weights.
    """
    config = common.new_config("feelvos")
    config.train.update(
        {
            "steps": 200_000,  # release: train.sh
            "batch": 6,  # release: 2 GPUs with 3 videos make one update
            "num_given": 2,  # reference and previous frame come with their masks
        }
    )
    # release: of all frames the memory is the true masks'
    config.train.teacher_forcing_steps = common.follow(config.train, "steps")
    # release: eval.sh tests at output stride 8, train.sh trains at 16, with the same weights
    config.train.model = ConfigDict({"output_stride": 16})
    config.loss.scale = 3.0  # release: losses of the 3 videos of a GPU are summed
    config.data.update(
        {
            "scale": (1.0, 1.3),  # release: min/max_scale_factor; crops of 465x465, flip 0.5
            # release: reference drawn apart, the pair (previous, query) shares its augmentation
            "groups": ((0,), (1, 2)),
        }
    )
    # paper sec. 3.5: three frames; release: previous and query follow each other
    config.data.clip.update({"choose": "reference_and_run", "frames": 3, "max_gap": 1})
    # release: several sets are mixed with equal probability
    train = common.davis("train") | common.youtube_vos()
    common.use_sources(config, train, common.davis("val"))
    config.optim.update(
        {
            "name": "sgd",
            "learning_rate": 7e-4,  # release: base_learning_rate; momentum 0.9
            "schedule": "poly",  # release: power 0.9
            "weight_decay": 4e-5,  # release
            "decay": (r"^(?!.*depthwise).*kernel$",),  # release: not depthwise, norms, biases
            # release: gradients of biases x2 (its BatchNorm calls them beta: not meant)
            "gradient_multipliers": ((r"^(embedding|head)/.*bias$", 2.0),),
            "clip": "per_parameter",  # release: every gradient on its own, to norm 5
        }
    )
    return config


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "output_stride": 16,
            "features": 128,
            "embedding_dim": 64,
            "embedding_init": "identity",
            "window": 12,
            "short_side": 240,
            "norm_eval": False,
            "momentum": 0.99,
        }
    )
    config.data.update(
        {
            "crop": (209, 337),
            "short_side": 240,
            "max_objects": 3,
            "groups": ((0,), (1, 2, 3)),
        }
    )
    # one more query, which remembers the network's own answer to the first: as at test time
    config.data.clip.frames = 4
    config.train.teacher_forcing_steps = 0
    config.model.previous_mask = "soft"
    del config.data.train["youtube_vos"]
    config.data.clip.max_gap = 3
    config.train.update({"steps": 3_000, "batch": 2})
    config.optim.update(
        {
            "name": "adam",
            "learning_rate": 1e-3,
            "rate_multipliers": ((r"^deeplab/backbone/", 0.1),),
            # the first layers stay as ImageNet left them: no gradient is computed for them
            "freeze": (r"^deeplab/backbone/features_[0-6]/",),
            "clip": "global",
        }
    )
    config.loss.update({"mining_steps": 3_000, "scale": 1.0})
    common.watch_short_run(config, 1_000)


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow MobileNetV2 from scratch on synthetic-v1."""
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "output_stride": 16,
            "width": 0.25,
            "features": 32,
            "embedding_dim": 16,
            "embedding_init": "identity",
            "window": 6,
            "backbone_norm_eval": False,
            "norm_eval": False,
            "momentum": 0.95,
            "dropout": 0.0,
        }
    )
    config.data.update({"crop": (96, 96), "max_objects": 3})
    common.use_synthetic(config)
    config.data.clip.max_gap = 4
    config.train.update({"steps": 800, "batch": 8})
    config.optim.update({"name": "adam", "learning_rate": 3e-3, "clip": "global"})
    config.loss.update({"mining_steps": 800, "scale": 1.0})
    common.watch_short_run(config, 0)
