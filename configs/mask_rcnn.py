"""Mask R-CNN (ICCV 2017) on a feature pyramid: instances of single frames, in images and in video.

    python -m vos_jax.main --config configs/mask_rcnn.py[:PRESET] [--workdir DIR]

Presets:
    quick         (default) a small network on embedded synthetic clips; minutes on two CPU cores
    small         ResNet-18 at half resolution on COCO, for one modest device
    paper         torchvision's maskrcnn_resnet50_fpn as it was trained on COCO
    images_quick  quick on single frames of the clips, with warped views of them instead of others

In video the network has no idea of identity: each detection is a track of its own unless
--config.inference.linker says who links them ("iou", "flow", "deepsort", "propagation").

Sources of the numbers: "release" = torchvision 0.x, references/detection and
models/detection/mask_rcnn.py (weights COCO_V1), "ours" = not settled by it. An imported
maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth runs under `paper` with no further flags; the file was not
at hand to verify that.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common, vis

PRESETS = ("quick", "small", "paper", "images_quick")
COCO_IMAGES = 117_266  # release: train2017, those with an object


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/mask_rcnn.py")
    config = _paper()
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        vis.shrink_detector_to_quick(config)
    if preset == "images_quick":
        config.data.warp.update({"rotate": 10.0, "zoom": (0.8, 1.2), "shift": 0.1})
        config.data.clip.update({"frames": 1})
    return config


def _paper() -> ConfigDict:
    """init.backbone is ResNet-50 with ImageNet weights."""
    config = common.new_config("mask_rcnn")
    config.inference.linker = "none"
    config.data.update({"crop": (1344, 1344), "sides": (1333, 800)})
    config.data.max_objects = 64  # ours
    config.data.clip.frames = 1
    epoch = COCO_IMAGES // 16
    config.train.update({"steps": 26 * epoch, "batch": 16})  # release: 8 devices, 2 images each
    config.optim.update(
        {
            "name": "sgd",
            "learning_rate": 0.02,  # release
            "schedule": "constant",
            "boundaries": (16 * epoch, 22 * epoch),  # release
            "warmup_steps": 1_000,  # release
            "warmup_start": 0.001,
            "momentum": 0.9,
            "weight_decay": 1e-4,  # release
            "decay": (r".",),
            "freeze": (r"^backbone/(conv1|bn\d|layer1_|.*/bn)",),  # release: and all norms
        }
    )
    coco = {"kind": "coco", "dir": "COCO"}
    config.data.train = ConfigDict({"coco": {**coco, "split": "train2017", "weight": 1.0}})
    config.data.eval = ConfigDict({"coco": {**coco, "split": "val2017"}})
    return config


def _shrink_to_small(config: ConfigDict) -> None:
    """ResNet-18, half the sides, batches that one modest device holds."""
    config.model.update({"depth": 18, "features": 128, "hidden": 256, "mask_depth": 2})
    config.inference.update({"image_scale": (640, 384), "pre_nms": 300, "post_nms": 100})
    config.data.update({"crop": (640, 640), "sides": (640, 384), "max_objects": 32})
    config.train.update({"steps": 20_000, "batch": 4})
    config.optim.update({"learning_rate": 0.005, "boundaries": (14_000, 18_000)})
    common.watch_short_run(config, 0)
