"""Every section of a config with every key and its meaning; configs/*.py say what differs.

A key stands here once, at the value that changes nothing or that most runs want. The fields of
config.model, of config.inference and of config.loss that belong to one system come from its module,
whose defaults are the released configuration.
"""

import dataclasses
import importlib
import inspect
from typing import Any

from ml_collections import ConfigDict, FieldReference

from vos_jax.inference.crf import CRF
from vos_jax.presets import vis
from vos_jax.systems.build import model_fields
from vos_jax.systems.table import SYSTEMS


def new_config(system: str) -> ConfigDict:
    """All sections for a system of SYSTEMS; `data` has no source yet."""
    of_task = {"vos": _vos_sections, "vis": _vis_sections}[SYSTEMS[system].task]
    config = ConfigDict(
        {
            "seed": 0,
            "model": _model(system),
            "optim": optim_section(),
            "loss": {"scale": 1.0, **_loss_settings(system)},  # scale multiplies the loss
            **of_task(system),
            "mesh": {"data": -1, "fsdp": 1},  # devices along each axis; -1: all that are left
            "log": {"every": 100},  # steps between two lines
            # (first, last): jax.profiler traces these steps into workdir/profile; (): none
            "profile_steps": (),
            # folders written by vos_jax.convert: weights of the backbone, or of the whole system
            # fresh: patterns of what such a whole system does not replace
            "init": {"backbone": "", "model": "", "fresh": ()},
        }
    )
    config.optim.steps = follow(config.train, "steps")
    return config


def _vos_sections(system: str) -> dict[str, Any]:
    """Those of systems that segment given or found objects."""
    sections = {
        "data": data_section(),
        "train": train_section(),
        "eval": eval_section(),
        "inference": _inference(system),
    }
    if SYSTEMS[system].model().traits.guidance == "none":
        sections["eval"]["floors"] = ("background", "whole_frame")
    return sections


def _vis_sections(system: str) -> dict[str, Any]:
    """Those of systems for instances."""
    fields = model_fields(SYSTEMS[system].model)
    own = {name: fields[name] for name in SYSTEMS[system].inference}
    train = {k: v for k, v in train_section().items() if k not in vis.NOT_OF_TRAIN}
    shared = data_section()
    return {
        "data": vis.data_section() | {name: shared[name] for name in vis.SHARED_DATA},
        "train": train,
        "eval": vis.eval_section(),
        "inference": vis.inference_section() | own,
    }


def system_config(system: str, preset: str) -> ConfigDict:
    """A preset of a system by its usual name, in whichever file of configs it is.

    preset: such as "quick" or "paper". Of a system whose entry names its published configuration
    FILE:PRESET, "paper" is that, and any other one PRESET_<preset>.
    """
    file, _, published = SYSTEMS[system].config.partition(".py:")
    if published:
        preset = published if preset == "paper" else f"{published}_{preset}"
    return importlib.import_module(f"vos_jax.configs.{file or system}").get_config(preset)


def follow(section: ConfigDict, key: str) -> FieldReference:
    """A value that is section's `key`, whatever it becomes, until it is set apart.

    The reference itself would be the same field: setting it apart would change `key`, too.
    """
    return section.get_ref(key) + 0


def _model(system: str) -> dict[str, Any]:
    """The name and all fields of the module but those of the section inference."""
    entry = SYSTEMS[system]
    fields = model_fields(entry.model)
    return {"name": system} | {k: v for k, v in fields.items() if k not in entry.inference}


def _inference(system: str) -> dict[str, Any]:
    """How a trained network is run; any other field of the module may be added to replace it."""
    entry = SYSTEMS[system]
    fields = model_fields(entry.model)
    return {
        "slots": 0,  # object slots; 0: as many as the video has objects
        # views whose probabilities are averaged: frames at these scales, also mirrored
        "scales": (1.0,),
        "flip": False,
        # results go through a dense conditional random field (inference/crf.py), on the host
        "crf": False,
        "crf_settings": dataclasses.asdict(CRF()),
        **{name: fields[name] for name in entry.inference},
    }


def _loss_settings(system: str) -> dict[str, Any]:
    """The settings of the system's losses and their defaults."""
    parameters = inspect.signature(SYSTEMS[system].model.losses).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def data_section() -> dict[str, Any]:
    """Training clips and their augmentation (data/pipeline.py, augment.py, warp.py); sources."""
    return {
        "dir": "",  # root of the sources' folders; or the environment's VOS_JAX_DATA_DIR
        "crop": (465, 465),  # height and width
        "fit": "crop",  # cut from the frame; "stretch": at scale 1 the whole frame fills it
        "short_side": 0,  # frames are resized to it at scale 1; 0: they stay as they are
        "scale": (1.0, 1.0),  # lowest and highest
        "interpolation": "linear",  # or "cubic"
        "contrast": False,  # the values of each frame are stretched to 0..255
        "flip": 0.5,  # probability
        "max_objects": 10,  # slots
        # of data/objects.py: "matched", "visible" or "largest"; of visible ones with more than so
        # many pixels; merge: all are one
        "objects": {"rule": "matched", "pixels": 100, "merge": False},
        "classes": (),  # names of categories, the first is class 1
        "clip": {
            "choose": "ordered",  # of data/sampling.py
            "frames": 3,
            "max_gap": 1,  # annotated frames between two that follow each other, at most
            # the limit begins at `start`, grows by `step` every so many examples up to max_gap;
            # start 0: it is max_gap from the beginning
            "growth": {"start": 0, "step": 0, "every": 1},
        },
        # frames that share scale, crop and flip; of a longer clip further ones join the last one's
        "groups": ((0, 1, 2),),
        # what happens to each frame on its own, or (shared) to those of a group alike; by default
        # nothing
        "warp": {
            "rotate": 0.0,  # degrees, as is shear
            "shear": 0.0,
            "zoom": (1.0, 1.0),
            "shift": 0.0,  # of the crop's sides
            "elastic": 0.0,  # pixels
            "colour": 0.0,
            "shared": False,
            "released": False,  # in the form of RVOS's release
        },
        # the place of a crop is drawn so often, until its reference shows an object of more than so
        # many pixels; tries 0: once
        "balance": {"tries": 0, "pixels": 100},
        "paste": 0,  # up to so many objects of other frames are laid over a clip; needs a warp
        "workers": 16,  # threads
        # so many processes instead, which share no lock: for hosts with several accelerators
        "processes": 0,
        # dtype in which frames go to the device (data/example.py): "float16" takes half of the
        # bytes and is at most 1/16 grey level off, "uint8" a quarter and 1/2; not with "cubic"
        "transport": "float32",
        "on_bad_clip": "raise",  # or "skip": an unreadable file is counted, and another one drawn
        # name -> {kind, dir, split, weight, ...}, see data/sources.py
        "train": {},
        "eval": {},
        # the first `steps` steps; other keys replace those of `data` there
        "pretrain": {"steps": 0},
        # the first of every `every` steps; other keys replace those of `data` there. 0: none
        "alternate": {"every": 0},
    }


def train_section() -> dict[str, Any]:
    """The run."""
    return {
        "steps": 100_000,
        "batch": 8,  # videos of a step on all devices
        "accumulate": 1,  # micro-batches of a step
        "ema": 0.0,  # decay of averaged parameters; 0: none are kept
        "num_given": 1,  # leading frames that come with their masks; 0: the first is predicted, too
        # so many steps remember the true masks of later frames, too; then the predicted ones
        "teacher_forcing_steps": 0,
        "frames_apart": False,  # live statistics of each frame alone, not of all frames of a clip
        "model": {},  # fields of the model that are others while it trains
        # "blocks": what is inside of the networks' blocks, and of the frames of clips so long that
        # they are a loop, is computed again in the backward pass; "none": all of it is kept
        "remat": "none",
        # batches get 1, 2, 4, ... object slots, as many as their clips need, not max_objects:
        # less to compute, and a compilation for each number. For one process
        "slot_buckets": False,
        "save_steps": 1_000,
        "save_minutes": 15,  # 0: only every save_steps
        "keep_last": 2,
    }


def optim_section() -> dict[str, Any]:
    """The optimizer (train/optim.py); patterns are searched in the paths of parameters."""
    return {
        "name": "adam",  # or "sgd"
        "learning_rate": 1e-4,
        # what becomes of a batch that the devices cannot share evenly (train/batch_rule.py): "none"
        # refuses it; with "linear" or "sqrt" the next one that fits is taken, rates follow by this
        # rule, and what counts steps is divided, so that as many clips are seen
        "scale_rule": "none",
        "schedule": "constant",  # "poly" or "step"
        "steps": 0,  # where "poly" ends; follows train.steps unless set apart
        "power": 0.9,  # of "poly"
        "boundaries": (),  # steps at which any schedule is multiplied by decay_factor
        "decay_factor": 0.1,
        "floor": 0.0,  # no rate is below it
        "warmup_steps": 0,  # from warmup_start * learning_rate up, linearly
        "warmup_start": 0.0,
        "momentum": 0.9,  # of "sgd", as is nesterov
        "nesterov": False,
        "b1": 0.9,  # of "adam", as are b2 and eps
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay": (),  # patterns of the parameters that decay
        "gradient_multipliers": (),  # (pattern, factor): before clipping
        # (pattern, factor): of the learning rate; of several factors step i takes number i
        "rate_multipliers": (),
        "clip": "none",  # "global" or "per_parameter"
        "clip_norm": 5.0,
        "freeze": (),  # patterns of the parameters that are not trained
    }


def eval_section() -> dict[str, Any]:
    """What is scored, and when."""
    return {
        "every": 10_000,  # steps; 0: at the end alone
        "videos": 0,  # the first so many by name; 0: all
        "protocol": "davis2017",  # of metrics/protocols.py; "instances": objects of images
        "temporal": "none",  # davis2016: "official" measures T, too, in its sequences; or "all"
        "seen": "",  # youtube-vos: file with the names of the seen categories
        "metric": "J&F-Mean",  # the best checkpoint's
        # "propagation" joins where init.backbone is set; "background" and "whole_frame" are the
        # floors of systems without masks
        "floors": ("copy", "rgb"),
        # name -> fields of inference: the same network, run otherwise, is scored beside
        "beside": {},
        "overlay": True,
    }


def davis(split: str) -> dict[str, Any]:
    """DAVIS-2017 as a source of clips."""
    source = {"kind": "davis", "dir": "DAVIS", "split": split}
    return {"davis": source | {"weight": 1.0} if split == "train" else source}


def youtube_vos() -> dict[str, Any]:
    """The training set of YouTube-VOS as a source of clips."""
    return {
        "youtube_vos": {
            "kind": "youtube_vos",
            "dir": "YouTube-VOS",
            "split": "train",
            "weight": 1.0,
        }
    }


def use_sources(config: ConfigDict, train: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """Trains and evaluates on these sources and no others."""
    config.data.train, config.data.eval = ConfigDict(train), ConfigDict(evaluation)


def use_synthetic(config: ConfigDict) -> None:
    """Trains and evaluates on the embedded clips of synthetic-v1."""
    train, test = ({"synthetic": {"kind": "synthetic", "split": s}} for s in ("train", "test"))
    use_sources(config, train, test)


def watch_short_run(config: ConfigDict, evaluate_every: int) -> None:
    """Data workers, evaluation, saves and log lines of a run on one modest machine.

    evaluate_every: 0 evaluates at the end alone.
    """
    config.data.workers = 2
    config.eval.every = evaluate_every
    config.train.save_steps = 200
    config.log.every = 20


def check_preset(preset: str, presets: tuple[str, ...], file: str) -> None:
    """ValueError with the known presets unless `preset` is one of them; file: of the config."""
    if preset not in presets:
        raise ValueError(f"{file}: no preset {preset!r}; there are {', '.join(presets)}")
