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

PRESETS = ("quick", "small", "paper", "paper_2x", "paper_davis", "paper_windows")


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    if preset not in PRESETS:
        raise ValueError(
            f"configs/cfbi_plus.py: no preset {preset!r}; there are {', '.join(PRESETS)}"
        )
    config = _paper()
    if preset == "paper_2x":
        config.train.steps = 200_000
    if preset == "paper_windows":
        config.model.windows = "paper"
    if preset == "paper_davis":
        _restrict_to_davis(config)
        config.inference.min_pixels = 100  # release: --min_matching_pixels 100, for DAVIS only
    if preset == "small":
        _shrink_to_small(config)
    if preset == "quick":
        _shrink_to_quick(config)
    _derive_schedules(config)
    return config


def _derive_schedules(config: ConfigDict) -> None:
    """What ends with the run or changes in its middle, unless set apart."""
    steps = config.train.get_ref("steps")
    # trainer: base * (1 - (t - warmup) / (steps - warmup + 1))^0.9, never quite 0
    config.optim.steps = steps + 1
    # release: at 50 000 of 100 000 steps, the bootstrapping and the switch to the own masks
    config.loss.mining_steps = steps // 2
    config.train.truth_steps = steps // 2


def _paper() -> ConfigDict:
    """The released configuration on YouTube-VOS."""
    return ConfigDict(
        {
            "seed": 0,
            "model": _model(),
            "data": _data(),
            "train": {
                "steps": 100_000,  # release
                "batch": 8,  # release: on 4 GPUs
                "accumulate": 1,
                "ema": 0.0,
                "observed": 2,  # reference and previous frame come with their masks
                # trainer: later frames too, in the first half; then the network's own masks. The
                # paper speaks of its own masks throughout: that is 0.
                "truth_steps": 0,
                "model": {},
                "save_steps": 1_000,  # release
                "save_minutes": 15,  # 0: only every save_steps
                "keep_last": 2,
            },
            "optim": _optim(),
            "loss": {
                "fraction": 0.15,  # release: hardest 15 %
                "mining_steps": 0,
                "scale": 1.0,
            },
            "eval": {
                "every": 10_000,
                "protocol": "davis2017",  # of vos_jax.metrics.protocols
                "seen": "",  # youtube-vos: file with the names of the seen categories
                "metric": "J&F-Mean",
                "floors": ("copy", "rgb"),  # "propagation" joins where init.backbone is set
                "overlay": True,
            },
            "inference": {
                "max_objects": 0,  # 0: as many slots as the video has objects
                # Views whose probabilities are averaged: frames at these scales, also mirrored.
                # release, for YouTube-VOS: 1.0, 1.15, 1.3, 1.5 and mirrored, max_long_edge 800
                "scales": (1.0,),
                "flip": False,
            },
            "mesh": {"data": -1, "fsdp": 1},
            "log": {"every": 100},
            # Folders written by vos_jax.convert. The release starts from DeepLabv3+ with COCO
            # weights: --model deeplabv3plus_resnet101; with MobileNetV2: --model mobilenet_v2.
            "init": {"backbone": "", "model": ""},
        }
    )


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


def _data() -> dict:
    """Crops, frames and sources of the trainer."""
    return {
        "dir": "",  # or VOS_JAX_DATA_DIR
        "crop": (465, 465),  # release
        "short_side": 480,  # release
        "scale": (1.0, 1.3),  # release
        "interpolation": "cubic",  # trainer
        "flip": 0.5,  # release
        "max_objects": 5,  # trainer
        "balance": {"tries": 5, "pixels": 100},  # trainer: balanced random crop
        "clip": {
            "choose": "reference_and_sequence",  # trainer
            "frames": 5,  # release: reference, previous and three current frames
            "max_gap": 3,  # release
        },
        "groups": ((0, 1, 2, 3, 4),),  # trainer: one window for all frames
        "workers": 16,
        "on_bad_clip": "raise",
        "train": {
            "youtube_vos": {
                "kind": "youtube_vos",
                "dir": "YouTube-VOS",  # release: the training set of 2019
                "split": "train",
                "weight": 1.0,
            },
        },
        # The masks of YouTube-VOS val are withheld: `package` makes the file for its server.
        "eval": {"davis": {"kind": "davis", "dir": "DAVIS", "split": "val"}},
    }


def _optim() -> dict:
    """SGD of the trainer."""
    return {
        "name": "sgd",
        "learning_rate": 0.01,  # release
        "schedule": "poly",
        "power": 0.9,  # release
        "floor": 1e-5,  # trainer: also of the warm-up
        "warmup_steps": 1_000,  # release
        "warmup_start": 0.0,
        "boundaries": (),  # of the "step" schedule
        "decay_factor": 0.1,
        "momentum": 0.9,  # release
        "nesterov": True,  # trainer
        "b1": 0.9,  # of Adam, as are b2 and eps
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1.5e-4,  # release
        "decay": (r"",),  # release: everything, biases and norms included
        "gradient_multipliers": (),
        "rate_multipliers": (),
        "clip": "global",
        "clip_norm": 5.0,  # release
        # release: FrozenBatchNorm trains neither statistics nor scale and bias
        "freeze": (r"^deeplab/.*/(scale|bias)$",),
    }


def _restrict_to_davis(config: ConfigDict) -> None:
    """DAVIS-2017 alone."""
    config.data.train = ConfigDict(
        {"davis": {"kind": "davis", "dir": "DAVIS", "split": "train", "weight": 1.0}}
    )
    # of CFBI's paper (the release's default is 0.01); that it takes half of the steps is ours
    config.train.update({"steps": 50_000, "batch": 6})
    config.optim.learning_rate = 0.006


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    _restrict_to_davis(config)
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "frozen": False,  # ASPP and decoder start fresh
            "features": 64,
            "head_width": 64,
            "groups": 8,
            "matching_dims": (16, 32, 64),
            "short_side": 240,
        }
    )
    config.data.update({"crop": (209, 337), "short_side": 240, "max_objects": 3, "workers": 2})
    config.data.groups = ((0, 1, 2, 3),)
    config.data.clip.frames = 4
    config.train.update({"steps": 3_000, "batch": 2})
    _use_adam(config, 5e-4)
    config.optim.rate_multipliers = ((r"^deeplab/backbone/", 0.1),)
    # the first layers stay as ImageNet left them: no gradient is computed for them
    config.optim.freeze = (
        r"^deeplab/backbone/features_[0-6]/",
        r"^deeplab/backbone/.*/(scale|bias)$",
    )
    config.eval.every = 1_000
    config.train.save_steps = 200
    config.log.every = 20


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow MobileNetV2 from scratch on synthetic-v1."""
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "width": 0.25,
            "frozen_backbone": False,
            "frozen": False,
            "momentum": 0.95,
            "dropout": 0.0,
            "features": 32,
            "head_width": 32,
            "groups": 4,
            "matching_dims": (8, 16, 32),
        }
    )
    config.data.update({"crop": (97, 97), "short_side": 0, "max_objects": 3, "workers": 2})
    config.data.groups = ((0, 1, 2, 3),)
    config.data.clip.frames = 4
    config.data.train = ConfigDict({"synthetic": {"kind": "synthetic", "split": "train"}})
    config.data.eval = ConfigDict({"synthetic": {"kind": "synthetic", "split": "test"}})
    config.train.update({"steps": 800, "batch": 6})
    _use_adam(config, 3e-3)
    config.optim.freeze = ()
    config.eval.every = 0
    config.train.save_steps = 200
    config.log.every = 20


def _use_adam(config: ConfigDict, learning_rate: float) -> None:
    """Ours: short runs learn faster with it than with the release's SGD."""
    config.optim.update(
        {
            "name": "adam",
            "learning_rate": learning_rate,
            "floor": 0.0,
            "warmup_steps": 0,
            "weight_decay": 4e-5,
            "decay": (r"kernel$",),
        }
    )
