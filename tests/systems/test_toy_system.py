"""A new system is one class and one entry in SYSTEMS: then every command takes it."""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from PIL import Image

from tests.tiny import quick_compilation
from vos_jax import benchmark, convert, main, segment
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.data.synthetic import render
from vos_jax.official import naming
from vos_jax.systems.base import Part, System
from vos_jax.systems.frame_size import resize_frame, scaled_size
from vos_jax.systems.label_logits import LabelLogitsModel, Prediction
from vos_jax.systems.table import SYSTEMS

CONFIG = """
from tests.tiny import shrunk
from vos_jax.presets import common

def get_config(preset="quick"):
    config = common.new_config("toy")
    common.use_synthetic(config)
    return shrunk(config)
"""


@struct.dataclass
class Means:
    """Sums and counts of the features of each label's given pixels."""

    sums: jax.Array  # [B, N+1, C]
    counts: jax.Array  # [B, N+1]


class Toy(LabelLogitsModel):
    """Every pixel takes the label whose mean feature is nearest."""

    channels: int = 8
    scale: float = 1.0
    dtype: str = "float32"

    def setup(self):
        self.conv = nn.Conv(self.channels, (3, 3), (4, 4), dtype=self.dtype)

    def preprocess(self, frame):
        return resize_frame(frame, scaled_size(frame.shape[:2], scale=self.scale))

    def encode(self, inputs, train=False):
        return self.conv(inputs / 255.0)

    def start(self, features, masks, valid, num_references=1, train=False):
        known = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        return self.mean(features, masks * known[..., None, None])

    def mean(self, features, masks):
        masks = jax.image.resize(masks, (*masks.shape[:2], *features.shape[1:3]), "nearest")
        return Means(jnp.einsum("blhw,bhwc->blc", masks, features), masks.sum(axis=(2, 3)))

    def segment(self, memory, features):
        means = memory.sums / jnp.maximum(memory.counts, 1)[..., None]
        distances = jnp.square(features[:, None] - means[:, :, None, None]).sum(axis=-1)
        return Prediction(-distances, memory.counts > 0)

    def memorize(self, memory, features, prediction, masks):
        return memory

    def introduce(self, memory, features, masks, new):
        of_new = jnp.pad(new, ((0, 0), (1, 0)))[..., None, None]
        return jax.tree.map(jnp.add, memory, self.mean(features, masks * of_new))

    def losses(self, predictions, labels, valid, step):
        found = jax.vmap(lambda p: self.probabilities(p, labels.shape[-2:]))(predictions)
        chosen = jnp.take_along_axis(found, jnp.swapaxes(labels, 0, 1)[:, :, None] * 1, axis=2)
        return -jnp.log(chosen + 1e-6).mean(axis=(0, 2, 3, 4))


def from_official(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> naming.Imported:
    wanted = {
        "params/conv/kernel": naming.Source("conv.weight", naming.kernel_from_torch),
        "params/conv/bias": naming.Source("conv.bias", naming.as_is),
    }
    return naming.match(arrays, wanted, naming.leaves(target))


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The entry; gives the flag of a config file."""
    entry = System(Toy, from_official, tiny={"channels": 4}, parts=(Part("encode", "conv"),))
    monkeypatch.setitem(SYSTEMS, "toy", entry)
    (tmp_path / "toy.py").write_text(CONFIG)
    with quick_compilation():
        yield f"--config={tmp_path / 'toy.py'}"


def test_a_toy_system_goes_through_every_command(toy, tmp_path, capsys):
    rng = np.random.default_rng(0)
    official = {"conv.weight": rng.normal(size=(4, 3, 3, 3)), "conv.bias": rng.normal(size=4)}
    np.savez(tmp_path / "official.npz", **official)
    folders = [f"--source={tmp_path / 'official.npz'}", f"--out={tmp_path / 'converted'}"]
    convert.main(["convert", "--model=toy", *folders, toy])
    assert "2 arrays, 112 parameters" in capsys.readouterr().out

    run = [toy, f"--workdir={tmp_path / 'run'}", f"--config.init.model={tmp_path / 'converted'}"]
    main.main(["main", *run, "--config.train.steps=2"])
    lines = (tmp_path / "run/logs/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("loss") for line in lines]
    assert len([loss for loss in losses if loss is not None and np.isfinite(loss)]) == 2

    def score(name):
        results = tmp_path / name / "scores.json"
        return json.loads(results.read_text())["metrics"]["J&F-Mean"]

    evaluation = [f"--workdir={tmp_path / 'again'}", f"--checkpoint={tmp_path / 'run'}"]
    main.main(["main", "--mode=eval", *evaluation])
    assert score("again/results/eval") == score("run/results/step_2") > 0

    frame, labels = render("test", 0, 0)
    (tmp_path / "frames").mkdir()
    for t in range(3):
        Image.fromarray(render("test", 0, t)[0]).save(tmp_path / f"frames/{t:05d}.png")
    write_mask(tmp_path / "mask.png", labels)
    flags = {"checkpoint": "converted", "frames": "frames", "mask": "mask.png", "out": "masks"}
    segment.main(["segment", *(f"--{key}={tmp_path / name}" for key, name in flags.items())])
    assert read_mask(tmp_path / "masks/00002.png").shape == frame.shape[:2]

    capsys.readouterr()
    benchmark.main(["toy", "--frame", "48", "64", "--rounds", "1"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.startswith(("whole", "encode", "conv"))]
    video = ["--frames", "100", "--frame", "48", "64"]
    benchmark.main(["stream", "--system", "toy", *video])
    assert "compilations after frame 1" in capsys.readouterr().out
