"""A-GAME (CVPR 2019): a generative model of each object's appearance, updated in every frame.

    python -m vos_jax.main --config configs/agame.py[:PRESET] [--workdir DIR]

Presets:
    quick           (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small           MobileNetV2 at 240p on folders in the DAVIS layout and SynthVOS made of image
                    and mask pairs, for one modest device
    paper           the released first stage: DAVIS-2017 and YouTube-VOS, half resolution
    paper_finetune  its second stage, full resolution; set --config.init.model to the first one's
                    workdir converted, or run the release's weights
    paper_synthvos  the first stage of the paper, with SynthVOS; paper_finetune follows
    paper_ytvos_only  YouTube-VOS alone (the row with a dagger)
    paper_davis     DAVIS-2017 alone (the release's davis_runfile)
    paper_davis16   evaluates on DAVIS-2016, with feedback before aggregation, as the release does
    ablation_no_appearance, _no_mask_propagation, _unimodal, _no_update, _appearance_softmax,
    _no_end_to_end  the rows of the paper's ablation table
    Each of the rows is made of `paper`; PRESET_quick (as in ablation_unimodal_quick) of `quick`.

Sources of the numbers: "paper" = arXiv 1811.11611; "release" = joakimjohnander/agame-vos, its
main_runfile and davis_runfile. The paper reports G 66.0 on YouTube-VOS 2018, J&F 70.0 on DAVIS-2017
val and 82.1 on DAVIS-2016; nothing of this has been trained here. An imported official checkpoint
runs under `paper` with no further flags; the file was not at hand to verify that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common

ABLATION = {
    "ablation_no_appearance": {"appearance": False},
    "ablation_no_mask_propagation": {"mask_propagation": False},
    "ablation_unimodal": {"components": 2},
    "ablation_no_update": {"update_rate": 0.0},
    "ablation_appearance_softmax": {"scores": "posterior"},
    "ablation_no_end_to_end": {"end_to_end": False},
}
PAPERS = (
    "paper",
    "paper_finetune",
    "paper_synthvos",
    "paper_ytvos_only",
    "paper_davis",
    "paper_davis16",
)
PRESETS = ("quick", "small", *PAPERS, *ABLATION, *(f"{row}_quick" for row in ABLATION))
VIDEOS = 60 + 3171  # release: DAVIS-2017 train, and its part of YouTube-VOS's (train_joakim)


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/agame.py")
    config = _paper()
    if preset == "paper_finetune":
        _finetune(config)
    if preset == "paper_synthvos":
        config.data.train["synth_vos"] = _synth_vos()
        _train_for(config, epochs=80, clips=VIDEOS, decay=0.95)  # paper
    if preset == "paper_ytvos_only":
        del config.data.train["davis"]
    if preset == "paper_davis":
        del config.data.train["youtube_vos"]
        _train_for(config, epochs=80, clips=2600, decay=0.95)  # release: davis_runfile
        # release: half of its clips grow from frame to frame; ours: all of them, as a whole
        config.data.scale = (1.0, 1.1)
    if preset == "paper_davis16":
        common.use_sources(config, config.data.train, _davis2016())
        config.eval.protocol = "davis2016"
        config.inference.aggregate = False
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        _shrink_to_quick(config)
    for field, value in ABLATION.get(preset.removesuffix("_quick"), {}).items():
        section = config.inference if field in config.inference else config.model
        section[field] = value
        if section is config.inference:
            config.train.model[field] = value
    return config


def _paper() -> ConfigDict:
    """The released first stage. init.backbone is ResNet-101 with ImageNet weights."""
    config = common.new_config("agame")
    config.train.update(
        {
            "batch": 4,  # paper, release
            "frames_apart": True,  # release: the backbone sees one frame after the other
        }
    )
    config.train.model = ConfigDict({"fed_back": "coarse"})  # release: while it trains
    config.data.update(
        {
            # release: frames are resized to 240x432, flipped with probability 1/2
            "crop": (240, 432),
            "fit": "stretch",
            "max_objects": 1,  # release: one at random of those ...
            # release: ... with more than 25 pixels in the first frame (10 in YouTube-VOS)
            "objects": {"rule": "visible", "pixels": 25, "merge": False},
        }
    )
    _clip_length(config, 8)  # paper, release
    train = common.davis("train") | common.youtube_vos()
    common.use_sources(config, train, common.davis("val"))
    config.optim.update(
        {
            "name": "adam",  # release: betas 0.9 and 0.999
            "learning_rate": 1e-4,  # release
            "weight_decay": 1e-5,  # release: of all parameters
            "decay": (r".",),
            # paper: all but the last block of the backbone is frozen
            "freeze": (r"^backbone_network/network/(conv1|bn1|layer[123]_)",),
        }
    )
    _train_for(config, epochs=160, clips=VIDEOS, decay=0.975)  # release: 160 epochs, 0.975
    return config


def _train_for(config: ConfigDict, epochs: int, clips: int, decay: float) -> None:
    """A rate that falls by `decay` after each epoch of so many clips.

    Where the release does not say how many clips an epoch has, it is one of each video (ours).
    """
    steps = clips // config.train.batch
    config.train.steps = epochs * steps
    config.optim.boundaries = tuple(epoch * steps for epoch in range(1, epochs))
    config.optim.decay_factor = decay


def _clip_length(config: ConfigDict, frames: int) -> None:
    """Clips of consecutive annotated frames, augmented alike."""
    config.data.clip.update({"choose": "ordered", "frames": frames})
    config.data.groups = (tuple(range(frames)),)
    # release: the given frame counts in the mean over frames, with a loss of 0
    config.loss.scale = (frames - 1) / frames


def _finetune(config: ConfigDict) -> None:
    """The second stage, from the weights of the first (init.model)."""
    config.data.crop = (480, 864)  # release
    config.train.batch = 2  # paper, release
    _clip_length(config, 14)  # paper, release
    config.loss.coarse_weight = 0.0  # release
    config.optim.update({"learning_rate": 1e-5, "weight_decay": 1e-6})  # release
    _train_for(config, epochs=100, clips=120, decay=0.985)  # release


def _davis2016() -> dict:
    source = common.davis("val")
    source["davis"]["year"] = "2016"
    return source


def _synth_vos() -> ConfigDict:
    """paper: 1-5 objects of MSRA10K move over images of VOC2012."""
    return ConfigDict(
        {
            "kind": "synth_vos",
            "dir": "MSRA10K",
            "backgrounds": "../VOC2012/JPEGImages",
            "weight": 1.0,
        }
    )


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    config.model.update(
        {"backbone": "mobilenet_v2", "channels": 128, "fine_channels": 64, "short_side": 240}
    )
    config.data.crop = (240, 432)
    del config.data.train["youtube_vos"]
    config.data.train["synth_vos"] = ConfigDict(
        {"kind": "synth_vos", "dir": "saliency", "weight": 1.0}
    )
    _clip_length(config, 5)
    config.train.update({"steps": 3_000, "batch": 2})
    config.optim.update(
        {
            "schedule": "poly",
            "boundaries": (),
            "learning_rate": 5e-4,
            "rate_multipliers": ((r"^backbone_network/", 0.1),),
            "freeze": (r"^backbone_network/network/features_[0-6]/",),
            "clip": "global",
        }
    )
    common.watch_short_run(config, 1_000)


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 from scratch on synthetic-v1."""
    config.model.update(
        {
            "backbone": "resnet18",
            "width": 0.375,
            "live_from": 0,  # no ImageNet statistics to keep
            "channels": 32,
            "fine_channels": 24,
            "scale": 5 / 3,  # objects of 30 pixels are fine for a stride of 16
        }
    )
    config.data.update({"crop": (160, 160), "fit": "crop", "short_side": 160, "scale": (1.0, 1.1)})
    common.use_synthetic(config)
    _clip_length(config, 4)
    config.data.clip.max_gap = 2
    # statistics of all frames at once: steadier, and no loop, which is slow on CPU
    config.train.update({"steps": 800, "batch": 6, "frames_apart": False})
    config.optim.update(
        {
            "schedule": "poly",
            "boundaries": (),
            "learning_rate": 2e-3,
            "warmup_steps": 20,
            "clip": "global",
            "freeze": (),
        }
    )
    common.watch_short_run(config, 0)
