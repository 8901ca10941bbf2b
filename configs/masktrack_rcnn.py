"""MaskTrack R-CNN (ICCV 2019): Mask R-CNN with a head that tells which object of a video a box is.

    python -m vos_jax.main --config configs/masktrack_rcnn.py[:PRESET] [--workdir DIR]

Presets:
    quick       (default) a small network on embedded synthetic clips; minutes on two CPU cores. It
                is scored with its own rule and, on the same detections, with linkers without one
    small       ResNet-18 at half resolution on YouTube-VIS, for one modest device
    paper       the released run: ResNet-50, YouTube-VIS 2019
    paper_2021  the same on YouTube-VIS 2021; paper_r101: with ResNet-101
    ablation_no_score, _no_iou, _no_category, _no_embedding
                a cue of the comprehensive score left out: alpha, beta, gamma, p
    ablation_deepsort, ablation_feelvos
                who links its detections instead (the rows with a dagger of the MaskProp paper's
                table 2); ablation_feelvos needs --config.inference.propagation, a FEELVOS
    Each of the rows is made of `paper`; PRESET_quick (as in ablation_no_iou_quick) of `quick`.

The truth of the official validation set is withheld: the last tenth of the training set, by video
id, is held back and scored. To write results for the server: vos_jax.segment, or vos_jax.package.

Sources of the numbers: "release" = youtubevos/MaskTrackRCNN, configs/masktrack_rcnn_r50_fpn_1x;
"ours" = not settled by it. An imported official checkpoint runs under `paper` with no further
flags; the file was not at hand to verify that. The paper's network begins with weights of COCO:
--config.init.model is a folder of mask_rcnn of the same geometry, and `init.fresh` names what does
not fit its classes. Deviations: the release clips gradients before it adds weight decay.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common, vis

CUES = {
    "ablation_no_score": {"match_coeff": (0.0, 2.0, 10.0)},
    "ablation_no_iou": {"match_coeff": (1.0, 0.0, 10.0)},
    "ablation_no_category": {"match_coeff": (1.0, 2.0, 0.0)},
    "ablation_no_embedding": {"use_embedding": False},
    "ablation_deepsort": {"linker": "deepsort"},
    "ablation_feelvos": {"linker": "propagation"},
}
PAPERS = ("paper", "paper_2021", "paper_r101")
PRESETS = ("quick", "small", *PAPERS, *CUES, *(f"{row}_quick" for row in CUES))
KEY_FRAMES = 60_000  # ours: 2238 videos (2019), of which nearly 27 frames are annotated each


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/masktrack_rcnn.py")
    config = _paper()
    if preset == "paper_2021":
        _use_youtube_vis(config, "2021")
    if preset == "paper_r101":
        config.model.depth = 101
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        vis.shrink_detector_to_quick(config)
        config.eval.linkers = ("iou", "flow", "deepsort")
    config.inference.update(CUES.get(preset.removesuffix("_quick"), {}))
    return config


def _paper() -> ConfigDict:
    """The released run."""
    config = common.new_config("masktrack_rcnn")
    config.data.update({"crop": (384, 640), "sides": (640, 360), "inclusive": True})  # release
    config.data.max_objects = 16  # ours
    epoch = KEY_FRAMES * 9 // 10 // 32
    config.train.update({"steps": 12 * epoch, "batch": 32})  # release: 4 devices, 8 pairs each
    config.optim.update(
        {
            "name": "sgd",
            "learning_rate": 0.005,  # release; the paper prints 0.05
            "boundaries": (8 * epoch, 11 * epoch),  # release
            "warmup_steps": 500,  # release
            "warmup_start": 1 / 3,
            "momentum": 0.9,
            "weight_decay": 1e-4,  # release
            "decay": (r".",),
            "clip": "global",
            "clip_norm": 35.0,  # release
            "freeze": (r"^backbone/(conv1|bn1|layer1_)",),  # release
        }
    )
    config.init.fresh = (r"^box_head/(logits|deltas)", r"^mask_head/logits", r"^track_head/")
    _use_youtube_vis(config, "2019")
    return config


def _use_youtube_vis(config: ConfigDict, year: str) -> None:
    """Nine tenths of the training set to train on, the rest to score."""
    config.data.train = ConfigDict(vis.youtube_vis("9/10", year))
    config.data.eval = ConfigDict(vis.youtube_vis("rest of 9/10", year))


def _shrink_to_small(config: ConfigDict) -> None:
    """ResNet-18, half the sides, batches that one modest device holds."""
    config.model.update({"depth": 18, "features": 128, "hidden": 256, "mask_depth": 2})
    config.inference.update({"image_scale": (320, 180), "pre_nms": 100, "post_nms": 50})
    config.data.update({"crop": (192, 320), "sides": (320, 180)})
    config.train.update({"steps": 20_000, "batch": 4})
    config.optim.boundaries = (14_000, 18_000)
    common.watch_short_run(config, 0)
