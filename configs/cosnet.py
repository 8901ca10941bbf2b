"""COSNet (CVPR 2019): the object of a video, found by co-attention between its frames, no masks.

    python -m vos_jax.main --config configs/cosnet.py[:PRESET] [--workdir DIR]

Presets:
    quick           (default) a small network on embedded clips in which one object moves and others
                    come and go; twenty minutes on a CPU core
    small           MobileNetV2 at 240p on DAVIS and image-mask pairs, for one modest device
    paper           the released code on DAVIS-2016, and the network of its public weights
    paper_fbms, paper_youtube_objects
                    the same, evaluated on these sets
    paper_slides    as the paper describes it: symmetric co-attention, fusion of attention
                    summaries, uniform references, a gate with bias, cross-entropy alone, CRF
    ablation_vanilla, _symmetric, _channelwise, _none
                    mechanisms (table 1); none is the encoder alone
    ablation_fusion_attention, _fusion_prediction
    ablation_frames_uniform, _frames_random, _frames_consecutive
                    fusion and choice of references (table 1)
    ablation_references_0, _1, _2, _5, _7
                    number of references (table 2)
    Each of the rows is made of `paper_slides`; PRESET_quick (as in ablation_none_quick) of `quick`,
    which is in the paper's form, too. Rows of fusion, choice and number train as the whole does.

Sources of the numbers: "paper" = arXiv 2001.06810, "release" = carrierlxk/COSNet at its last commit
(train_iteration_conf.py, dataloaders/, test_coattention_conf.py), "ours" = not settled by either.
With CRF the paper reports J 80.5, F 79.4 and T 31.9 on DAVIS-2016 val, J 75.6 on FBMS and 70.5 on
YouTube-Objects; the release without CRF J 79.0. Nothing of this has been trained here.

An imported public checkpoint is expected to need `legacy_double_softmax`, which `paper` has: it was
published in August 2019, and until January 2020 the code had this softmax. The file was not at hand
to verify that; --config.inference.legacy_double_softmax=False scores the other form.

Deviations: the release begins from an encoder trained on saliency data that was not published;
here init.backbone is torchvision's ResNet-101 with ImageNet weights, whose strides lie elsewhere.
Its optimizer lists parameters of the encoder one to four times and moves them as often in a step,
here they move once. Videos are drawn alike, in the release by their number of frames. Scales of 0.7
to 1.3 before frames are stretched to one size, which change their shape alone, are left out.
References are drawn once for a video, in the release for every frame.
"""

from ml_collections import ConfigDict

from vos_jax.presets import common

# field of model, inference or loss -> its value in a row of the tables
ROWS = {
    "ablation_vanilla": {"attention": "vanilla"},
    "ablation_symmetric": {"attention": "symmetric"},
    "ablation_channelwise": {"attention": "channelwise"},
    "ablation_none": {"attention": "none"},
    "ablation_fusion_attention": {"fusion": "attention"},
    "ablation_fusion_prediction": {"fusion": "prediction"},
    "ablation_frames_uniform": {"selection": "uniform"},
    "ablation_frames_random": {"selection": "random"},
    "ablation_frames_consecutive": {"selection": "consecutive"},
    **{f"ablation_references_{n}": {"num_references": n} for n in (0, 1, 2, 5, 7)},
}
PAPERS = ("paper", "paper_slides", "paper_fbms", "paper_youtube_objects")
PRESETS = ("quick", "small", *PAPERS, *ROWS, *(f"{row}_quick" for row in ROWS))
EPOCH = 130  # release: steps; 2079 frames of DAVIS-2016 train, 16 to a batch


def get_config(preset: str = "quick") -> ConfigDict:
    """The configuration of a preset; ValueError names the known ones."""
    common.check_preset(preset, PRESETS, "configs/cosnet.py")
    config = _paper()
    if preset == "paper_fbms":
        _evaluate_on(config, "fbms", {"kind": "fbms", "dir": "FBMS", "split": "test"})
    if preset == "paper_youtube_objects":
        source = {"kind": "youtube_objects", "dir": "YouTube-Objects"}
        _evaluate_on(config, "youtube_objects", source)
    if preset in ("paper_slides", "quick") or preset.startswith("ablation"):
        _as_in_the_paper(config)
    if preset == "small":
        _shrink_to_small(config)
    if preset.endswith("quick"):
        _shrink_to_quick(config)
    for field, value in ROWS.get(preset.removesuffix("_quick"), {}).items():
        section = config.inference if field in config.inference else config.model
        section[field] = value
    return config


def _paper() -> ConfigDict:
    """The release. Steps with images take turns with those that have pairs of frames."""
    config = common.new_config("cosnet")
    config.train.update(
        {
            "steps": 60 * EPOCH,  # release
            "batch": 16,  # release; the paper's author: 8
            "frames_apart": True,  # release: the encoder sees one frame after the other
        }
    )
    config.train.model = ConfigDict({"pairs": True})
    config.data.update(
        {
            "crop": (473, 473),  # release, whatever the shape of the frame
            "fit": "stretch",
            "scale": (1 / 0.9, 1 / 0.9),  # release: a crop of 0.9 x 0.9, stretched
            "contrast": True,  # release: of frames, not of images
            "groups": ((0,), (1,)),
            "max_objects": 1,
            "objects": {"rule": "visible", "pixels": 0, "merge": True},
        }
    )
    config.data.clip.update({"choose": "reference_and_run", "frames": 2})
    config.data.alternate = ConfigDict(
        {
            "every": 3,  # release
            "clip": {"choose": "still", "frames": 2},
            "scale": (1.0, 1.0),
            "flip": 0.0,
            "contrast": False,
            "train": {
                "msra10k": {"kind": "images", "dir": "MSRA10K", "repeat": 10_000},
                # which of the DUT sets is not said
                "dut": {"kind": "images", "dir": "DUT-OMRON", "repeat": 5_168},
            },
        }
    )
    config.loss.image_every = common.follow(config.data.alternate, "every")
    config.optim.update(
        {
            "name": "sgd",  # release, as is all of this
            "learning_rate": 2.5e-4,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "decay": (r".",),
            "schedule": "poly",
            "boundaries": (6 * EPOCH,),
            "decay_factor": 0.5,
            # image steps train the encoder alone, pairs what comes after it
            "rate_multipliers": ((r"^encoder", (1.0, 0.01, 0.01)), (r".", (0.0, 10.0, 10.0))),
            "freeze": (r"^encoder/backbone/.*/downsample/norm/",),
        }
    )
    config.inference.legacy_double_softmax = True  # of the public weights
    config.eval.update({"protocol": "davis2016", "temporal": "official", "metric": "J-Mean"})
    common.use_sources(config, _davis2016("train"), _davis2016("val"))
    return config


def _davis2016(split: str) -> dict:
    source = common.davis(split)
    source["davis"]["year"] = 2016
    return source


def _evaluate_on(config: ConfigDict, name: str, source: dict) -> None:
    config.data.eval = ConfigDict({name: source})
    config.eval.update({"protocol": name.replace("_", "-"), "temporal": "none"})


def _as_in_the_paper(config: ConfigDict) -> None:
    config.model.update({"attention": "symmetric", "gate_bias": True})
    config.inference.update(
        {"fusion": "attention", "selection": "uniform", "legacy_double_softmax": False}
    )
    config.inference.crf = True
    config.loss.l1 = 0.0


def _shrink_to_small(config: ConfigDict) -> None:
    """MobileNetV2, 240p, batches that one modest device holds."""
    config.model.update({"backbone": "mobilenet_v2", "features": 64, "pyramid": 64})
    config.inference.update(
        {"size": (240, 424), "selection": "uniform", "legacy_double_softmax": False}
    )
    config.data.crop = (240, 424)
    config.data.alternate.train = ConfigDict({"images": {"kind": "images", "dir": "saliency"}})
    config.train.update({"steps": 3_000, "batch": 4, "frames_apart": False})
    config.optim.update(
        {
            "name": "adam",
            "learning_rate": 5e-4,
            "weight_decay": 0.0,
            "decay": (),
            "boundaries": (),
            "rate_multipliers": ((r"^encoder/backbone/", 0.1),),
            "clip": "global",
            # the first layers stay as ImageNet left them: no gradient is computed for them
            "freeze": (r"^encoder/backbone/features_[0-6]/",),
        }
    )
    config.loss.image_weight = 1.0
    common.watch_short_run(config, 1_000)


def _shrink_to_quick(config: ConfigDict) -> None:
    """A narrow ResNet-18 from scratch on synthetic-salient-v1, whose frames are the images, too.

    Symmetric co-attention finds what is alike from the first step on: its projection begins
    orthogonal.
    """
    config.model.update({"backbone": "resnet18", "width": 0.25, "features": 32, "pyramid": 32})
    config.inference.update({"size": (96, 160), "crf": False})
    train, test = (
        {"salient": {"kind": "synthetic_salient", "split": s}} for s in ("train", "test")
    )
    common.use_sources(config, train, test)
    config.eval.temporal = "none"  # it is a measure of DAVIS's sequences
    config.eval.beside = ConfigDict(
        {"alone": {"num_references": 0}, **{f"{n}_shown": {"num_references": n} for n in (1, 2)}}
    )
    config.data.update({"crop": (96, 160), "scale": (1.0, 1.1), "contrast": False})
    config.data.groups = ((0, 1),)
    config.data.alternate.flip = 0.5
    config.data.alternate.train = ConfigDict(train)
    config.train.update({"steps": 3_000, "batch": 6, "frames_apart": False})
    config.optim.update(
        {
            "name": "adam",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "decay": (),
            "boundaries": (),
            "rate_multipliers": (),
            "clip": "global",
            "freeze": (),
        }
    )
    config.loss.image_weight = 1.0
    common.watch_short_run(config, 0)
