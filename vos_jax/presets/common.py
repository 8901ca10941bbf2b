"""Parts that mean the same in the config of every system; configs/*.py say the rest."""

from ml_collections import ConfigDict


def run_sections() -> dict:
    """The sections eval, mesh, log and init of a published recipe."""
    return {
        "eval": {
            "every": 10_000,
            "protocol": "davis2017",  # of vos_jax.metrics.protocols
            "seen": "",  # youtube-vos: file with the names of the seen categories
            "metric": "J&F-Mean",
            "floors": ("copy", "rgb"),  # "propagation" joins where init.backbone is set
            "overlay": True,
        },
        "mesh": {"data": -1, "fsdp": 1},
        "log": {"every": 100},
        # folders written by vos_jax.convert: weights of the backbone, or of the whole system
        "init": {"backbone": "", "model": ""},
    }


def saving() -> dict:
    """Fields of the section train: when a run is saved."""
    return {
        "save_steps": 1_000,
        "save_minutes": 15,  # 0: only every save_steps
        "keep_last": 2,
    }


def views() -> dict:
    """Fields of the section inference that every system has."""
    return {
        "max_objects": 0,  # 0: as many slots as the video has objects
        # views whose probabilities are averaged: frames at these scales, also mirrored
        "scales": (1.0,),
        "flip": False,
    }


def davis(split: str) -> dict:
    """DAVIS-2017 as a source of clips."""
    source = {"kind": "davis", "dir": "DAVIS", "split": split}
    return {"davis": source | {"weight": 1.0} if split == "train" else source}


def youtube_vos() -> dict:
    """The training set of YouTube-VOS as a source of clips."""
    return {
        "youtube_vos": {
            "kind": "youtube_vos",
            "dir": "YouTube-VOS",
            "split": "train",
            "weight": 1.0,
        }
    }


def watch_short_run(config: ConfigDict, evaluate_every: int) -> None:
    """Data workers, evaluation, saves and log lines of a run on one modest machine.

    evaluate_every: 0 evaluates at the end alone.
    """
    config.data.workers = 2
    config.eval.every = evaluate_every
    config.train.save_steps = 200
    config.log.every = 20


def use_synthetic(config: ConfigDict) -> None:
    """Trains and evaluates on the embedded clips of synthetic-v1."""
    for split, part in {"train": "train", "test": "eval"}.items():
        config.data[part] = ConfigDict({"synthetic": {"kind": "synthetic", "split": split}})
