"""A FEELVOS without its backbone, for tests of what comes after it."""

import jax

from vos_jax.systems.feelvos.model import FEELVOS, Features


class Encoded(FEELVOS):
    """Its inputs are features and embeddings, one after the other in the channels.

    Its only variables are the head's; so it compiles quickly, and a gradient with respect to its
    inputs is what the backbone would receive.
    """

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        split = self.features
        shared, embedding = inputs[..., :split], inputs[..., split:]
        return Features(shared.astype(self.dtype), embedding)
