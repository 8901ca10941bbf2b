"""The sections of a config that systems for instances have in a form of their own."""

from typing import Any

from ml_collections import ConfigDict

# of common.data_section: what means the same here
SHARED_DATA = (
    *("dir", "flip", "workers", "processes", "transport", "on_bad_clip"),
    *("train", "eval", "pretrain", "alternate"),
)
# of train_section: what a system that is shown no masks has no use for
NOT_OF_TRAIN = ("num_given", "teacher_forcing_steps", "frames_apart", "slot_buckets")


def data_section() -> dict[str, Any]:
    """Training examples (data/instance_examples.py), beside the keys of SHARED_DATA."""
    return {
        "crop": (384, 640),  # height and width of the canvas, multiples of 32
        "sides": (640, 360),  # long and short one that a frame is made to fit into
        "max_objects": 16,  # slots
        "inclusive": False,  # boxes end at their last pixel before they are scaled (mmdet 0.x)
        "clip": {
            # "any_other": a key frame, then others of its video; "around": frames in order with the
            # key frame in the middle, each at most `reach` from it
            "choose": "any_other",
            "frames": 2,
            "reach": 1,
        },
        # of a frame that comes again, as an image does; by default it is the same
        "warp": {
            "rotate": 0.0,  # degrees, as is shear
            "shear": 0.0,
            "zoom": (1.0, 1.0),
            "shift": 0.0,  # of the frame's sides
            "elastic": 0.0,  # pixels
            "colour": 0.0,
        },
    }


def eval_section() -> dict[str, Any]:
    """What is scored, and when."""
    return {
        "every": 10_000,  # steps; 0: at the end alone
        "videos": 0,  # the first so many; 0: all
        "metric": "AP",  # the best checkpoint's
        # linkers that follow the same detections, beside that of config.inference
        "linkers": (),
        "overlay": True,
    }


def inference_section() -> dict[str, Any]:
    """How a trained network is run, but for the fields of its module."""
    return {
        # who gives identities: the "model" itself, or one of inference/vis_setup.py
        "linker": "model",
        "aggregate": "majority",  # or "mean": a track's score and class (inference/tracks.py)
        # checkpoint of the system that the linker "propagation" follows objects with
        "propagation": "",
    }


def youtube_vis(part: str, year: str = "2019") -> dict[str, Any]:
    """A part of YouTube-VIS's training set; the truth of its validation set is withheld."""
    folder = f"YouTube-VIS-{year}"
    return {"youtube_vis": {"kind": "youtube_vis", "dir": folder, "split": "train", "part": part}}


def use_synthetic(config: ConfigDict) -> None:
    """Trains and evaluates on the embedded clips of synthetic-vis-v1."""
    train, test = ({"synthetic": {"kind": "synthetic_vis", "split": s}} for s in ("train", "test"))
    config.data.train, config.data.eval = ConfigDict(train), ConfigDict(test)
    config.data.update({"crop": (96, 160), "sides": (160, 96), "max_objects": 4})


def shrink_detector_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 and narrow heads, from scratch on synthetic-vis-v1."""
    use_synthetic(config)
    config.model.update(
        {
            "classes": 3,
            "depth": 18,
            "width": 0.25,
            "features": 32,
            "hidden": 128,
            "mask_depth": 2,
            "geometry": "modern",
            "norm_epsilon": 1e-5,
            "norm_eval": False,
            "anchor_size": 6.0,
            "finest": 16.0,  # boxes have sides of 20 to 40 pixels
            "train_proposals": 32,
            "anchor_samples": 64,
            "box_samples": 24,
            "box_beta": 1.0,
        }
    )
    config.inference.update(
        {
            "image_scale": (160, 96),
            "pre_nms": 48,
            "post_nms": 32,
            "max_detections": 10,
            "score_threshold": 0.3,
        }
    )
    config.data.inclusive = False
    config.train.update({"steps": 2_500, "batch": 4})
    config.optim.update(
        {
            "name": "adam",
            "learning_rate": 1.5e-3,
            "schedule": "poly",
            "boundaries": (),
            "warmup_steps": 20,
            "warmup_start": 0.0,
            "weight_decay": 0.0,
            "decay": (),
            "clip": "global",
            "clip_norm": 5.0,
            "freeze": (),
        }
    )
    config.data.workers = 2
    config.eval.every = 0
    config.train.save_steps = 200
    config.log.every = 20
