"""Nearest-neighbour label propagation with a pretrained backbone's features: nothing is trained.

Every pixel takes the label of the nearest feature vector among the pixels of the first frame and,
within a window, of the previous one. It is what a trained system has to beat on the same backbone,
so results tables show it beside them.
"""

import functools

import jax
import jax.numpy as jnp

from vos_jax.nn.deeplab import build_backbone, normalise
from vos_jax.systems.base import Traits
from vos_jax.systems.feelvos.model import FEELVOS, Features, Memory, Prediction


class Propagation(FEELVOS):
    """FEELVOS's matching on normalised backbone features, the smaller distance deciding.

    The cue switches choose the frames that are looked at. Variables: the backbone's alone, such as
    vos_jax.convert writes.
    """

    @property
    def traits(self) -> Traits:
        """The variables are the backbone's alone."""
        return Traits(backbone_scopes=(("trunk",),))

    def setup(self):
        self.trunk = build_backbone(self.backbone, self.output_stride, self.width)

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Unit vectors of the backbone's last map, at `output_stride`."""
        features = self.trunk(normalise(inputs, self.backbone), False)[-1]
        features /= jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-6)
        return Features(features, features)

    def segment(self, memory: Memory, features: Features) -> Prediction:
        """Minus the distance to the nearest pixel of each label."""
        nearest = functools.reduce(jnp.minimum, self.distances(memory, features))
        # unit vectors are at most 2 apart: 4 stands for "no pixel of this label"
        return Prediction(-jnp.minimum(jnp.moveaxis(nearest, -1, 1), 4.0), memory.present)
