"""FEELVOS (CVPR 2019): embeddings matched to the first and the previous frame.

    python -m vos_jax.main --config configs/feelvos.py[:PRESET] --workdir DIR

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
    if preset not in PRESETS:
        raise ValueError(
            f"configs/feelvos.py: no preset {preset!r}; there are {', '.join(PRESETS)}"
        )
    config = _paper()
    config.optim.steps = config.train.get_ref("steps") + 0  # ends with the run unless set apart
    config.train.teacher_forcing_steps = config.train.get_ref("steps") + 0
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
    """The released run on DAVIS-2017 and YouTube-VOS."""
    return ConfigDict(
        {
            "seed": 0,
            "model": _model(),
            "data": _data(),
            "train": {
                "steps": 200_000,  # release: train.sh
                "batch": 6,  # release: 2 GPUs with 3 videos make one update
                "accumulate": 1,
                "ema": 0.0,
                "num_given": 2,  # reference and previous frame come with their masks
                "teacher_forcing_steps": 200_000,  # of all frames the memory is the true masks'
                "model": {"output_stride": 16},  # ... and trains at 16, same weights
                **common.saving(),
            },
            "optim": _optim(),
            "loss": {
                "fraction": 0.15,  # paper sec. 4: hardest 15 %
                "mining_steps": 100_000,  # release: reached after 100 000 steps
                "scale": 3.0,  # release: losses of the 3 videos of a GPU are summed
            },
            "inference": common.views(),
            # release: init.backbone is Xception-65 with ImageNet + COCO weights
            **common.run_sections(),
        }
    )


def _model() -> dict:
    """The network of the release."""
    return {
        "name": "feelvos",
        "backbone": "xception_65",  # release: model_variant
        "width": 1.0,  # of MobileNetV2
        "output_stride": 8,  # release: eval.sh tests at 8 ...
        "features": 256,  # release: ASPP, decoder and head
        "embedding_dim": 100,  # paper sec. 4
        "embedding_init": "release",
        "window": 15,  # paper sec. 4: k = 15 (a half size)
        "k_nearest": 1,  # release
        "samples": 1024,  # paper sec. 3.5
        "first_frame_global": True,
        "previous_frame_local": True,
        "previous_frame_global": False,
        "previous_prediction": True,
        "previous_mask": "hard",  # release; the paper feeds back "soft" posteriors
        "frozen_backbone": True,  # release: fine_tune_batch_norm=False
        "frozen": True,
        "momentum": 0.9997,  # release
        "dropout": 0.1,  # release: concat_projection
        "short_side": 0,  # release: native resolution
        "dtype": "float32",
    }


def _data() -> dict:
    """Crops, frames and sources of the released run."""
    return {
        "dir": "",  # or VOS_JAX_DATA_DIR
        "crop": (465, 465),  # release: train.sh
        "short_side": 0,  # 0: frames as they are
        "scale": (1.0, 1.3),  # release: min/max_scale_factor
        "flip": 0.5,  # release
        "max_objects": 10,  # slots; no DAVIS-2017 clip has more objects
        "clip": {
            "choose": "reference_and_run",
            "frames": 3,  # paper sec. 3.5
            "max_gap": 1,  # release: previous and query follow each other
        },
        "groups": (
            (0,),
            (1, 2),
        ),  # release: reference drawn apart, the pair shares its augmentation
        "workers": 16,
        "on_bad_clip": "raise",
        # release: several sets are mixed with equal probability
        "train": common.davis("train") | common.youtube_vos(),
        "eval": common.davis("val"),
    }


def _optim() -> dict:
    """SGD with the quirks of the released trainer."""
    return {
        "name": "sgd",
        "learning_rate": 7e-4,  # release: base_learning_rate
        "schedule": "poly",
        "power": 0.9,  # release
        "warmup_steps": 0,  # release: none
        "warmup_start": 0.0,
        "boundaries": (),  # of the "step" schedule
        "decay_factor": 0.1,
        "momentum": 0.9,  # release
        "nesterov": False,
        "b1": 0.9,  # of Adam, as are b2 and eps
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 4e-5,  # release
        "decay": (r"^(?!.*depthwise).*kernel$",),  # release: not depthwise, not BN, not biases
        # release: gradients of biases x2 (its BatchNorm calls them beta: not meant)
        "gradient_multipliers": ((r"^(embedding|head)/.*bias$", 2.0),),
        "rate_multipliers": (),
        "clip": "per_parameter",
        "clip_norm": 5.0,  # release: every gradient on its own
        "freeze": (),
    }


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
            "frozen": False,
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
    config.train.update({"steps": 3_000, "batch": 2, "model": {"output_stride": 16}})
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
            "frozen_backbone": False,
            "frozen": False,
            "momentum": 0.95,
            "dropout": 0.0,
        }
    )
    config.data.update(
        {
            "crop": (96, 96),
            "max_objects": 3,
        }
    )
    common.use_synthetic(config)
    config.data.clip.max_gap = 4
    config.train.update({"steps": 800, "batch": 8, "model": {"output_stride": 16}})
    config.optim.update({"name": "adam", "learning_rate": 3e-3, "clip": "global"})
    config.loss.update({"mining_steps": 800, "scale": 1.0})
    common.watch_short_run(config, 0)
