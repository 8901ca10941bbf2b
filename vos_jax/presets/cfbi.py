"""The recipe that CFBI and CFBI+ have in common; their configs say where the networks differ.

Sources of the numbers: "release" = z-x-yang/CFBI, "trainer" = the public descendant of its training
code (JerryX1110/RPCMVOS), "paper" = arXiv 2003.08333 and 2010.06349, "ours" = not settled by any.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common


def paper(system: str) -> ConfigDict:
    """The released configuration on YouTube-VOS.

    release: init.backbone is DeepLabv3+ with COCO weights, which vos_jax.convert takes as --model
    deeplabv3plus_resnet101. For YouTube-VOS it averages scales 1.0, 1.15, 1.3, 1.5, mirrored, with
    max_long_edge 800.
    """
    config = common.new_config(system)
    config.train.update(
        {
            "steps": 100_000,  # release
            "batch": 8,  # release: on 4 GPUs
            "num_given": 2,  # reference and previous frame come with their masks
        }
    )
    config.data.update(
        {
            "crop": (465, 465),  # release
            "short_side": 480,  # release
            "scale": (1.0, 1.3),  # release
            "interpolation": "cubic",  # trainer
            "flip": 0.5,  # release
            "max_objects": 5,  # trainer
            "balance": {"tries": 5, "pixels": 100},  # trainer: balanced random crop
            "objects": {"rule": "visible", "pixels": 100},  # trainer: the same number
            "groups": ((0, 1, 2, 3, 4),),  # trainer: one window for all frames
        }
    )
    config.data.clip.update(
        {
            "choose": "reference_and_sequence",  # trainer
            "frames": 5,  # release: reference, previous and three current frames
            "max_gap": 3,  # release
        }
    )
    # release: the training set of 2019. The masks of YouTube-VOS val are withheld: `package` makes
    # the file for its server.
    common.use_sources(config, common.youtube_vos(), common.davis("val"))
    config.optim.update(
        {
            "name": "sgd",
            "learning_rate": 0.01,  # release; CFBI's published weights took 0.02 with 16 videos
            "schedule": "poly",  # release: power 0.9
            "floor": 1e-5,  # trainer: also of the warm-up
            "warmup_steps": 1_000,  # release
            "momentum": 0.9,  # release
            "nesterov": True,  # trainer
            "weight_decay": 1.5e-4,  # release
            "decay": (r"",),  # release: everything, biases and norms included
            "clip": "global",  # release: to norm 5
            # release: FrozenBatchNorm trains neither statistics nor scale and bias
            "freeze": (r"^deeplab/.*/(scale|bias)$",),
        }
    )
    return config


def derive_schedules(config: ConfigDict) -> None:
    """What ends with the run or changes in its middle, unless set apart."""
    steps = config.train.get_ref("steps")
    # trainer: base * (1 - (t - warmup) / (steps - warmup + 1))^0.9, never quite 0
    config.optim.steps = steps + 1
    # release: at 50 000 of 100 000 steps, the bootstrapping and the switch to the own masks; the
    # paper speaks of its own masks throughout: that is teacher_forcing_steps 0
    config.loss.mining_steps = steps // 2
    config.train.teacher_forcing_steps = steps // 2


def restrict_to_davis(config: ConfigDict) -> None:
    """DAVIS-2017 alone."""
    config.data.train = ConfigDict(common.davis("train"))
    # paper of CFBI: 2 GPUs with 3 videos and this learning rate (the release's default is 0.01);
    # that it took half of the steps is ours
    config.train.update({"steps": 50_000, "batch": 6})
    config.optim.learning_rate = 0.006


def shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    restrict_to_davis(config)
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "norm_eval": False,  # ASPP and decoder start fresh
            "momentum": 0.99,  # ours: batches of two videos are noisy
            "features": 64,
            "head_width": 64,
            "groups": 8,
            "short_side": 240,
        }
    )
    config.data.update({"crop": (209, 337), "short_side": 240, "max_objects": 3})
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
    common.watch_short_run(config, 1_000)


def shrink_to_quick(config: ConfigDict) -> None:
    """A narrow MobileNetV2 from scratch on synthetic-v1."""
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "width": 0.25,
            "backbone_norm_eval": False,
            "norm_eval": False,
            "momentum": 0.95,
            "dropout": 0.0,
            "features": 32,
            "head_width": 32,
            "groups": 4,
        }
    )
    config.data.update({"crop": (97, 97), "short_side": 0, "max_objects": 3})
    config.data.groups = ((0, 1, 2, 3),)
    config.data.clip.frames = 4
    common.use_synthetic(config)
    config.train.update({"steps": 800, "batch": 6})
    _use_adam(config, 3e-3)
    config.optim.freeze = ()
    common.watch_short_run(config, 0)


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
