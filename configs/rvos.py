"""RVOS (CVPR 2019): objects decoded one after the other, recurrent over objects and frames.

    python -m vos_jax.main --config configs/rvos.py[:PRESET] [--workdir DIR]

Presets:
    quick           (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small           MobileNetV2 at 240p on DAVIS folders, for one modest device
    paper           one-shot on YouTube-VOS, both stages: true previous masks, then predicted ones
    paper_davis     one-shot on DAVIS-2017; config.init.model is to be what `paper` gave
    paper_zero_shot, paper_zero_shot_davis
                    without masks, the second from what the first gave
    ablation_s, _t, _st, _st_plus
                    recurrence over objects (s), frames (t) or both, with true previous masks alone;
                    st_plus adds the second stage (the paper's table 1)
    ablation_zero_shot_s, _t, _st
                    the same without masks (its table 5)
    Each ablation is made of `paper` or `paper_zero_shot`; PRESET_quick (as in ablation_t_quick) of
    `quick`, so ablation_zero_shot_st_quick is the quick run without masks.
    rsis, ris       its ancestors, which find the objects of single images: RSIS on Pascal VOC
                    (arXiv 1712.00617), RIS on COCO (ECCV 2016)
    rsis_quick, ris_quick
                    the same on synthetic images

Sources of the numbers: "paper" = arXiv 1903.05612, "release" = its code (scripts/*.sh, args.py,
train*.py), "ours" = not settled by either. For `paper` the paper reports on YouTube-VOS validation
J 63.6 and F 67.2 of seen, J 45.5 and F 51.0 of unseen categories, for `paper_davis` J 48.0 and F
52.6 on DAVIS-2017 test-dev; neither has been trained here. An imported release runs under the
preset of its task and data set with no further flags; no file of it was at hand to verify that.

Deviations: clips begin anywhere, the release cuts each video into clips that share no frame and
trains on 80 % of the videos. Objects are those of a clip's first frame, the release counts all of
the video. The optimizer is not begun anew between the stages.

Of RSIS the paper reports AP50 57.6, AP60 52.5, AP70 43.3 and AP80 38.1 on Pascal VOC 2012; it has
not been trained here. Its stages go by steps, where the release waits until a loss stalls. RIS was
published for one class at a time and without the numbers of its networks: what is not the paper's
is ours, and any object of COCO is one.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common

ROWS = ("ablation_s", "ablation_t", "ablation_st", "ablation_st_plus")
ZERO_SHOT_ROWS = ("ablation_zero_shot_s", "ablation_zero_shot_t", "ablation_zero_shot_st")
PAPER = ("paper", "paper_davis", "paper_zero_shot", "paper_zero_shot_davis")
QUICK = tuple(f"{row}_quick" for row in (*ROWS, *ZERO_SHOT_ROWS))
IMAGES = ("rsis", "ris", "rsis_quick", "ris_quick")
PRESETS = ("quick", "small", *PAPER, *ROWS, *ZERO_SHOT_ROWS, *QUICK, *IMAGES)

# ours: steps of an epoch; clips of 5 of the frames that are annotated, 4 to a batch
YOUTUBE_EPOCH = 3_500  # 80 % of 3471 videos with about 27 annotated frames each
DAVIS_EPOCH = 200  # 60 videos, 4209 frames
VOC_EPOCH = 380  # 10582 images, 28 to a batch

# release: the shear of at most a tenth is one that its code takes for degrees
RELEASED_WARP = {
    "released": True,
    "rotate": 10.0,
    "shear": 0.1,
    "zoom": (0.7, 1.4),
    "shift": 0.1,
}

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/rvos.py")
    if preset in IMAGES:
        return _of_images(*preset.split("_"))
    config = _paper()
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        _shrink_to_quick(config)
    if "zero_shot" in preset:
        _without_masks(config)
    if preset in ("paper_davis", "paper_zero_shot_davis"):
        _on_davis(config)
    row = preset.removesuffix("_quick")
    if row in (*ROWS[:3], *ZERO_SHOT_ROWS):
        config.model.mode = row.split("_")[-1]
    if row in ROWS[:3]:  # paper: 20 epochs; the second stage is what the + stands for
        config.train.steps = config.train.teacher_forcing_steps
    return config


def _paper() -> ConfigDict:
    """Both stages of one-shot training on YouTube-VOS in one run.

    paper: init.backbone is ResNet-101 with ImageNet weights.
    """
    config = common.new_config("rvos")
    config.train.update(
        {
            "steps": 40 * YOUTUBE_EPOCH,  # paper: 20 epochs each
            "teacher_forcing_steps": 20 * YOUTUBE_EPOCH,  # with the true masks of the frame before
            "batch": 4,  # paper
            "num_given": 0,  # release: the first frame is in the loss, too
            "frames_apart": True,  # release: statistics are those of one frame of the batch
        }
    )
    config.optim.update(
        {
            "learning_rate": 1e-3,  # release: Adam, fixed; 1e-6 for the ResNet
            "rate_multipliers": ((r"^encoder/backbone/", 1e-3),),
            "weight_decay": 1e-6,  # release
            "decay": (r".",),
        }
    )
    config.data.update(
        {
            "crop": (256, 448),  # paper
            "fit": "stretch",
            "max_objects": 10,  # release
            "groups": ((0, 1, 2, 3, 4),),
        }
    )
    config.data.objects.update({"rule": "visible", "pixels": 0})  # release: any size
    config.data.clip.update({"frames": 5, "max_gap": 1})  # paper: consecutive ones
    config.data.warp.update({**RELEASED_WARP, "shared": True})  # release: one for a clip
    # release: ten slots are decoded in every frame, whether they have an object yet or not
    config.inference.decode_absent = True
    common.use_sources(config, common.youtube_vos(), common.davis("val"))
    return config


def _on_davis(config: ConfigDict) -> None:
    """Fine-tuning on DAVIS-2017 at its own size, with predicted masks throughout."""
    epochs = 20 if config.model.one_shot else 10  # release
    config.train.update({"steps": epochs * DAVIS_EPOCH, "teacher_forcing_steps": 0})
    config.data.crop = (240, 427)  # release
    config.inference.update({"size": (240, 427), "decode_absent": False})  # all objects come first
    config.loss.visible_only = True  # release
    common.use_sources(config, common.davis("train"), common.davis("val"))


def _without_masks(config: ConfigDict) -> None:
    """Zero-shot: proposals, which are matched to the annotated objects."""
    config.model.one_shot = False
    config.train.teacher_forcing_steps = 0  # there are no masks to remember
    config.inference.decode_absent = False
    config.eval.update(
        {"protocol": "davis2017-unsupervised", "floors": ("background", "whole_frame")}
    )
    if config.train.steps == 40 * YOUTUBE_EPOCH:
        config.train.steps = 50 * YOUTUBE_EPOCH  # release; the paper's table has 40


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    config.model.update({"backbone": "mobilenet_v2", "features": 64})
    config.inference.update({"size": (240, 427), "decode_absent": False})
    config.data.update({"crop": (240, 427), "scale": (1.0, 1.3), "max_objects": 3})
    config.data.clip.update({"frames": 4, "max_gap": 3})
    config.data.groups = ((0, 1, 2, 3),)
    config.data.objects.pixels = 100
    config.data.warp.update({"released": False, "zoom": (0.9, 1.1), "shear": 0.0})  # scale crops
    common.use_sources(config, common.davis("train"), common.davis("val"))
    config.train.update(
        {"steps": 3_000, "batch": 2, "teacher_forcing_steps": 500, "frames_apart": False}
    )
    config.loss.visible_only = True
    config.optim.update(
        {
            "schedule": "poly",
            "rate_multipliers": ((r"^encoder/backbone/", 0.1),),
            "clip": "global",
            # the first layers stay as ImageNet left them: no gradient is computed for them
            "freeze": (r"^encoder/backbone/features_[0-6]/",),
        }
    )
    common.watch_short_run(config, 1_000)


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 from scratch on synthetic-v1, whole frames."""
    config.model.update({"backbone": "resnet18", "width": 0.375, "features": 48})
    config.inference.update({"size": (96, 160), "decode_absent": False, "proposals": 3})
    config.data.update({"crop": (96, 160), "max_objects": 3})
    common.use_synthetic(config)
    config.data.warp.update(common.data_section()["warp"])  # which changes nothing
    config.data.clip.update({"frames": 4, "max_gap": 2})
    config.data.groups = ((0, 1, 2, 3),)
    config.train.update(
        {"steps": 1_200, "batch": 4, "teacher_forcing_steps": 300, "frames_apart": False}
    )
    config.optim.update(
        {"schedule": "poly", "learning_rate": 3e-3, "rate_multipliers": (), "clip": "global"}
    )
    common.watch_short_run(config, 0)


def _of_images(system: str, quick: str = "") -> ConfigDict:
    """RSIS or RIS: clips of one frame, whose largest objects are learnt."""
    config = common.new_config(system)
    config.train.update({"batch": 28, "num_given": 0})  # release
    config.optim.update(
        {
            "learning_rate": 1e-3,  # release: Adam, fixed; 1e-6 for the ResNet
            "rate_multipliers": ((r"^encoder/backbone/", 1e-3),),
            "weight_decay": 1e-6,  # release
            "decay": (r".",),
        }
    )
    config.data.update({"crop": (256, 256), "fit": "stretch", "groups": ((0,),)})  # release
    config.data.clip.update({"choose": "still", "frames": 1})
    config.data.objects.update({"rule": "largest", "pixels": 0})  # release
    config.data.max_objects = config.model.proposals
    config.data.warp.update(RELEASED_WARP)
    config.eval.update({"protocol": "instances", "metric": "AP50", "floors": (), "overlay": False})
    {"rsis": _on_voc, "ris": _on_coco}[system](config)
    if quick:
        _shrink_images_to_quick(config)
    return config


def _on_voc(config: ConfigDict) -> None:
    """RSIS in stages: masks alone, then also classes, then also where to stop."""
    config.data.classes = VOC_CLASSES
    config.train.steps = 200 * VOC_EPOCH  # ours: the release waits
    # release: classes from the 20th epoch; ours: stops from the 100th
    config.loss.update({"class_from": 20 * VOC_EPOCH, "stop_from": 100 * VOC_EPOCH})
    voc = {"kind": "coco", "dir": "VOC2012", "images": "JPEGImages"}
    train = {"voc": {**voc, "split": "train", "weight": 1.0}}
    common.use_sources(config, train, {"voc": {**voc, "split": "val"}})


def _on_coco(config: ConfigDict) -> None:
    """RIS, at a fixed rate."""
    config.train.steps = 100_000  # ours
    coco = {"kind": "coco", "dir": "COCO"}
    train = {"coco": {**coco, "split": "train2017", "weight": 1.0}}
    common.use_sources(config, train, {"coco": {**coco, "split": "val2017"}})


def _shrink_images_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 from scratch on synthetic images of up to three objects."""
    config.model.update({"backbone": "resnet18", "width": 0.25, "features": 64, "proposals": 4})
    config.inference.size = (64, 96)
    config.data.update({"crop": (64, 96), "max_objects": 4})
    config.data.warp.update(common.data_section()["warp"])  # which changes nothing
    images = {"kind": "synthetic_instances"}
    train, test = ({"synthetic": {**images, "split": split}} for split in ("train", "test"))
    common.use_sources(config, train, test)
    if config.model.name == "rsis":
        config.model.classes = 4
        config.data.classes = ("disc", "square", "triangle")
        config.loss.update({"class_from": 100, "stop_from": 200})
    config.train.update({"steps": 1_000, "batch": 8})
    config.optim.update(
        {"schedule": "poly", "learning_rate": 3e-3, "rate_multipliers": (), "clip": "global"}
    )
    common.watch_short_run(config, 0)
