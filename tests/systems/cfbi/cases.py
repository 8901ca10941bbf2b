"""CFBI and CFBI+ on the reference fixtures: official weights, instrumented steps, naming."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tests.fixtures import fixture, golden_parameters, load_spec
from vos_jax.nn.gated import gated
from vos_jax.systems.base import one_hot
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.cfbi.model import CFBI
from vos_jax.systems.cfbi.official import from_official
from vos_jax.systems.cfbi.plus import CFBIPlus

SYSTEMS = {"cfbi": CFBI, "cfbiplus": CFBIPlus}

# name in the fixtures -> our module inside the ensembler
_SHARED = {
    "ASPP": "aspp", "bn_sc": "skip_conv/norm", "bn1": "conv1/norm",
    "bn2": "conv2/norm", "IA_final_fg": "foreground", "IA_final_bg": "background",
}  # fmt: skip
_LAYERS = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
HEAD = {
    "cfbi": _SHARED
    | {f"layer{i}": f"stage{s}_layer{n}" for i, (s, n) in enumerate(_LAYERS, start=1)},
    "cfbiplus": _SHARED | {f"S{s}_layer{n}": f"stage{s}_layer{n}" for s, n in _LAYERS},
}
# name in the fixtures -> our module whose gated input it is
GATED = {
    "cfbi": {"IA1": "stage1_layer1", "GCT_sc": "skip_conv"},
    "cfbiplus": {"S1_IA1": "stage1_layer1", "GCT_sc": "skip_conv"},
}
BACKBONE = ("conv1", "res2", "res3", "res4", "res5")


def mobilenet_spec():
    """The description of the fixture with the small backbone."""
    return json.loads((fixture("cfbi") / "spec_mobilenet.json").read_text())


def official_arrays(system, spec=None):
    """Every array of a checkpoint by the weight rule; a second name holds the first one's array."""
    spec = spec or load_spec(system)
    arrays = golden_parameters(spec)
    return arrays | {second: arrays[first] for second, first in spec["aliases"].items()}


@functools.lru_cache(maxsize=1)
def official_variables(system, **fields):
    """The fixture's weights, passed through the importer."""
    spec = mobilenet_spec() if fields else None
    target = variable_shapes(SYSTEMS[system](**fields))
    return from_official(official_arrays(system, spec), target).variables


class Runner:
    """A model on a clip of the fixtures, with what happens inside under the fixtures' names.

    encoder: another runner whose compiled encoder serves this one too.
    """

    def __init__(self, system, variables, size, encoder=None, **fields):
        self.system, self.variables, self.size = system, variables, size
        self.model = SYSTEMS[system](**fields)
        self._encode = encoder._encode if encoder else jax.jit(self._encode_frame)
        start = functools.partial(self.model.apply, method=self.model.start)
        self._start, self._step = jax.jit(start), jax.jit(self._advance)

    def prepared(self, frame):
        """A frame of the fixtures (BGR) as `encode` wants it."""
        return self.model.preprocess(np.ascontiguousarray(frame[..., ::-1]))[None]

    def encode(self, inputs):
        """Features of prepared frames."""
        return self._encode(self.variables, inputs)[0]

    def start(self, frame, mask, slots, objects):
        """Memory of the first frame; `objects` of the `slots` are valid."""
        features, arrays = self._encode(self.variables, self.prepared(frame))
        valid = jnp.arange(slots)[None] < objects
        masks = one_hot(jnp.asarray(mask)[None], slots)
        return self._start(self.variables, features, masks, valid), arrays

    def step(self, memory, frame):
        """Memory with the hard prediction, and every array of the step."""
        features, arrays = self._encode(self.variables, self.prepared(frame))
        memory, more = self._step(self.variables, memory, features)
        return memory, arrays | more

    def _encode_frame(self, variables, inputs):
        features, state = self.model.apply(
            variables,
            inputs,
            method=self.model.encode,
            capture_intermediates=lambda module, _: module.name in ("conv1", "backbone", "deeplab"),
            mutable=["intermediates"],
        )
        inner = traverse_util.flatten_dict(state["intermediates"], sep="/")
        maps = inner["deeplab/__call__"][0]
        arrays = {"feat_aspp": maps.pyramid, "feat_dec": maps.decoded}
        if "deeplab/backbone/conv1/__call__" in inner:
            backbone = inner["deeplab/backbone/__call__"][0]
            stem = inner["deeplab/backbone/conv1/__call__"][0]
            arrays |= {f"feat_{k}": v for k, v in zip(BACKBONE, (stem, *backbone), strict=True)}
        else:
            arrays |= {"feat_3_low": maps.low_level, "feat_6_mid": maps.mid_level}
            arrays["feat_17"] = inner["deeplab/backbone/__call__"][0][2]
        names = self._scaled("emb")
        arrays |= dict(zip(names, features.embeddings, strict=True))
        return features, {k: jnp.moveaxis(v[0], -1, 0) for k, v in arrays.items()}

    def _advance(self, variables, memory, features):
        model = self.model
        head = HEAD[self.system]
        wanted = {path.split("/")[-1] for path in head.values()} | {"prehead"}
        inputs = {}

        def note(call, positional, keywords, context):
            if context.method_name == "__call__":
                inputs[context.module.name] = positional
            return call(*positional, **keywords)

        with nn.intercept_methods(note):
            prediction, state = model.apply(
                variables,
                memory,
                features,
                method=model.segment,
                capture_intermediates=lambda module, _: module.name in wanted,
                mutable=["intermediates"],
            )
        inner = traverse_util.flatten_dict(state["intermediates"], sep="/")
        arrays = {f"head_{k}": inner[f"ensembler/{path}/__call__"][0] for k, path in head.items()}
        for name, module in GATED[self.system].items():
            x, *gate = inputs[module]
            arrays[f"head_{name}"] = gated(x, *gate) if gate else x
        if "prehead/__call__" in inner:
            arrays["prehead"] = inner["prehead/__call__"][0]
        arrays = {k: jnp.moveaxis(v, -1, 1) for k, v in arrays.items()}
        names = zip(self._scaled("local"), self._scaled("global"), strict=True)
        for scale, (near, far) in enumerate(names):
            embedding = features.embeddings[scale]
            cues = model.apply(variables, memory, embedding, scale, method=model._cues)[0]
            count = len(model.scale_windows[scale])
            arrays[far] = cues[..., 0]
            arrays[near] = jnp.moveaxis(cues[..., 1 : 1 + count], -1, 1)
        arrays[self._scaled("att")[0]] = model.apply(variables, memory, method=model._guidance)[0]
        arrays["logits"] = prediction.logits[0]
        arrays["prob"] = model.probabilities(prediction, self.size)[0]
        mask = model.labels(prediction, self.size)
        arrays["mask"] = mask[0]
        masks = one_hot(mask, memory.present.shape[1] - 1)
        memory = model.apply(variables, memory, features, prediction, masks, method=model.memorize)
        return memory, arrays

    def _scaled(self, name):
        """A name of the fixtures at each scale."""
        if self.system == "cfbi":
            return [name]
        return [f"{name}{stride}x" for stride in (4, 8, 16)]
