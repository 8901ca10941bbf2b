"""STM (ICCV 2019): a memory of past frames that every pixel of the current one reads.

    python -m vos_jax.main --config configs/stm.py[:PRESET] [--workdir DIR]

Presets:
    quick         (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small         MobileNetV2 at 240p on image pairs and DAVIS folders, for one modest device
    paper         both stages of the paper: static images, then YouTube-VOS and DAVIS-2017
    paper_davis   the same with DAVIS-2017 alone in the second stage
    ablation_pretrain_only, ablation_main_only
                  one of the two stages (the paper's table of training data)
    ablation_memory_first, _previous, _first_previous, _every5
                  which frames are remembered (its table of memories); only inference differs
    Each of them is made of `paper`; PRESET_quick (as in ablation_main_only_quick) of `quick`.

The authors released no training code. Sources of the numbers: "paper" = arXiv 1904.00607, "author"
= answers of the first author in the issues of seoungwugoh/STM, "release" = its inference code,
"ours" = not settled by either. The paper reports J&F 81.8 on DAVIS-2017 val for `paper` and 71.6
for `paper_davis`; neither has been trained here. An imported STM_weights.pth runs under `paper`
with no further flags; the file was not at hand to verify that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common

# Which frames are remembered: the first, the previous, every n-th (0: none).
MEMORIES = {
    "ablation_memory_first": (True, False, 0),
    "ablation_memory_previous": (False, True, 0),
    "ablation_memory_first_previous": (True, True, 0),
    "ablation_memory_every5": (True, True, 5),
}
STAGES = ("ablation_pretrain_only", "ablation_main_only")
ROWS = (*STAGES, *MEMORIES)
PRESETS = ("quick", "small", "paper", "paper_davis", *ROWS, *(f"{row}_quick" for row in ROWS))


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/stm.py")
    config = _paper()
    if preset == "paper_davis":
        del config.data.train["youtube_vos"]
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        _shrink_to_quick(config)
    row = preset.removesuffix("_quick")
    if row in MEMORIES:
        first, previous, every = MEMORIES[row]
        config.inference.update(
            {"memory_first": first, "memory_previous": previous, "memory_every": every}
        )
    if row == "ablation_pretrain_only":
        config.data.pretrain.steps = common.follow(config.train, "steps")
    if row == "ablation_main_only":
        config.data.pretrain.steps = 0
    return config


def _paper() -> ConfigDict:
    """Two stages in one run.

    paper: init.backbone is ResNet-50 with ImageNet weights, for both encoders; masks that were
    predicted are memorised, as soft as they are.
    """
    config = common.new_config("stm")
    config.train.update(
        {
            "steps": 745_000,  # author: about 500 000 on images and 245 000 on videos
            "batch": 4,  # paper
        }
    )
    # room for the frames of a training clip
    config.train.model = ConfigDict({"length": common.follow(config.data.clip, "frames")})
    config.optim.learning_rate = 1e-5  # paper: Adam, fixed
    config.data.update(
        {
            "crop": (384, 384),  # paper
            "short_side": 384,
            "scale": (1.0, 1.25),  # author: shorter side from 384 to the original's, 480 in DAVIS
            "max_objects": 5,  # ours; slots in training
        }
    )
    config.data.clip.update(
        {
            "frames": 3,  # paper
            "max_gap": 26,  # paper: up to 25 frames are skipped
            # author: the limit grows by 5 every 20 epochs of 3771 clips
            "growth": {"start": 1, "step": 5, "every": 75_420},
        }
    )
    # author: zoom of the axes, affine; the other ranges are ours
    config.data.warp.update({"rotate": 10.0, "shear": 5.0, "zoom": (0.9, 1.1), "colour": 0.1})
    train = common.davis("train") | common.youtube_vos()
    common.use_sources(config, train, common.davis("val"))
    config.data.pretrain = _still_images(config)
    return config


def _still_images(config: ConfigDict) -> ConfigDict:
    """What the first stage changes: each image becomes a clip of as many views of it (paper)."""
    return ConfigDict(
        {
            "steps": 500_000,  # author: two million samples
            "clip": {"choose": "still", "frames": common.follow(config.data.clip, "frames")},
            # paper: rotation, shearing, zooming, translation, cropping; the ranges are ours
            "scale": (1.0, 1.5),
            "warp": {
                "rotate": 20.0,
                "shear": 10.0,
                "zoom": (0.9, 1.1),
                "shift": 0.1,
                "colour": 0.1,
            },
            "paste": 2,  # ours: objects of other images, so that clips have several
            # Folders of image and mask pairs; add more of them, such as ECSSD and HKU-IS.
            "train": {"images": {"kind": "images", "dir": "MSRA10K"}},
        }
    )


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    config.model.update(
        {
            "backbone": "mobilenet_v2",
            "key_dim": 64,
            "value_dim": 128,
            "features": 64,
            # with ImageNet features and fresh keys three quarters of what an object's pixels read
            # is the object, a third with the release's scores
            "scaled_scores": False,
            "short_side": 240,
        }
    )
    config.data.update(
        {"crop": (192, 256), "short_side": 240, "scale": (1.0, 1.3), "max_objects": 2}
    )
    del config.data.train["youtube_vos"]
    config.data.clip.update({"max_gap": 8, "growth": {"start": 2, "step": 1, "every": 200}})
    config.data.pretrain.steps = 1_000
    config.data.pretrain.train = ConfigDict({"images": {"kind": "images", "dir": "saliency"}})
    config.train.update({"steps": 3_000, "batch": 2, "teacher_forcing_steps": 500})
    config.optim.update(
        {
            "schedule": "poly",
            "learning_rate": 5e-4,
            "rate_multipliers": (
                (r"/backbone/", 0.2),
                (r"^memory_encoder/(mask|others)", 4.0),  # begin too small for ImageNet's norms
            ),
            "clip": "global",
            # the first layers stay as ImageNet left them: no gradient is computed for them
            "freeze": (r"^query_encoder/backbone/features_[0-6]/",),
        }
    )
    common.watch_short_run(config, 1_500)


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 from scratch on synthetic-v1, whose frames are the stills of stage 1.

    What compares must be good from the first step, or nothing that is read says where an object
    is: a residual network that begins as its shortcuts, and scores as the paper has them, which are
    sharper than the released code's.
    """
    config.model.update(
        {
            "backbone": "resnet18",
            "width": 0.375,
            "key_dim": 64,
            "value_dim": 64,
            "features": 32,
            "scaled_scores": False,
            "scale": 5 / 3,  # contours and objects of 30 pixels are fine for strides 4 and 16
        }
    )
    config.data.update(
        {"crop": (160, 160), "short_side": 160, "scale": (1.0, 1.1), "max_objects": 3}
    )
    common.use_synthetic(config)
    config.data.clip.update({"max_gap": 4, "growth": {"start": 4, "step": 0, "every": 1}})
    config.data.pretrain.steps = 300
    config.data.pretrain.paste = 0  # synthetic clips have several objects
    config.data.pretrain.train = ConfigDict({"synthetic": {"kind": "synthetic", "split": "train"}})
    config.data.warp.shift = 0.1
    config.train.update({"steps": 800, "batch": 6, "teacher_forcing_steps": 300})
    config.train.model.norm_eval = False  # no ImageNet statistics to keep
    config.optim.update(
        {
            "schedule": "poly",
            "learning_rate": 1e-3,
            "warmup_steps": 20,
            # what has no norm behind it takes smaller steps
            "rate_multipliers": ((r"^decoder/|/heads/", 0.5),),
            "clip": "global",
        }
    )
    common.watch_short_run(config, 0)
