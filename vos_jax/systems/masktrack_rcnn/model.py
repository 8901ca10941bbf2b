"""MaskTrack R-CNN: Mask R-CNN with a head that tells which object of the video a box is.

Yang, Fan, Xu, "Video Instance Segmentation", ICCV 2019, arXiv 1905.04804; released code:
youtubevos/MaskTrackRCNN, on mmdet 0.x, whose inclusive boxes are part of what its weights mean.

Deviations from the release: the memory holds the embedding of an object, not its pooled features
(the weights are fixed: the same result), and has a capacity, see `association`.

Glossary as in systems.mask_rcnn.model; M places of the memory, E size of embeddings.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vos_jax.nn.detection_heads import TrackHead
from vos_jax.systems.mask_rcnn.frames import batch_inputs
from vos_jax.systems.mask_rcnn.model import BOX_BINS, Features, MaskRCNN
from vos_jax.systems.mask_rcnn.training import Sampled
from vos_jax.systems.masktrack_rcnn.association import (
    Memory,
    associate,
    comprehensive_scores,
    empty_memory,
    match_scores,
)
from vos_jax.systems.masktrack_rcnn.training import track_losses
from vos_jax.systems.vis_base import Detections, Linked


class MaskTrackRCNN(MaskRCNN):
    """MaskTrack R-CNN; fields beyond those of MaskRCNN say how detections are linked.

    match_coeff: (alpha, beta, gamma), what the score of a detection, its overlap with an object and
    their having one class count. use_embedding: whether their likeness counts. capacity: objects
    that are remembered. unique_ids: whether two detections of a frame may not have one identity.
    """

    classes: int = 40
    geometry: str = "legacy"
    norm_epsilon: float = 1e-5
    image_scale: tuple[int, int] = (640, 360)
    pre_nms: int = 200
    post_nms: int = 200
    max_detections: int = 10
    train_proposals: int = 200
    anchor_samples: int = 64
    box_samples: int = 128
    box_beta: float = 1.0
    match_coeff: tuple[float, float, float] = (1.0, 2.0, 10.0)
    use_embedding: bool = True
    capacity: int = 128
    unique_ids: bool = False

    def setup(self):
        super().setup()
        self.track_head = TrackHead(self.hidden, dtype=jnp.dtype(self.dtype))

    def embed(self, features: Features, boxes: jax.Array) -> jax.Array:
        """Embeddings [B, R, E] of boxes on the canvas."""
        return self.track_head(self.pool(features, boxes, BOX_BINS))

    def losses(
        self, batch: Mapping[str, jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As `MaskRCNN.losses`, with the second frame of each example as the reference frame."""
        # both frames as one batch: one pass, and half the program
        both = [batch_inputs(batch, frame) for frame in (0, 1)]
        features = self.encode(jax.tree.map(lambda *x: jnp.concatenate(x), *both), train=True)
        count = len(batch["frames"])
        of_key = jax.tree.map(lambda x: x[:count], features)
        reference = jax.tree.map(lambda x: x[count:], features)
        parts, sampled, rois = self.detector_losses(of_key, batch, key)
        parts["track"] = self.track_losses(of_key, reference, batch, sampled, rois)
        return sum(parts.values()), parts

    def track_losses(
        self,
        features: Features,
        reference: Features,
        batch: Mapping[str, jax.Array],
        sampled: Sampled,
        rois: jax.Array,
    ) -> jax.Array:
        """Of sampled boxes rois [B, R, 4] of the key frame: [B]."""
        seen = batch["valid"][:, 1]
        references = self.embed(reference, batch["boxes"][:, 1])
        scores = match_scores(self.embed(features, rois), references, seen)
        return track_losses(scores, sampled, seen)

    def start(self, features: Features) -> Memory:
        """As `VISModel.start`."""
        return empty_memory(len(features.size), self.capacity, self.hidden)

    def link(
        self, memory: Memory, features: Features, detections: Detections, real: jax.Array
    ) -> tuple[Memory, Linked]:
        """As `VISModel.link`; nothing is delayed."""
        detections = detections.replace(valid=detections.valid & real[:, None])
        how = (self.match_coeff, self.use_embedding, self.convention)
        v = comprehensive_scores(memory, detections, *how)
        after, ids = associate(memory, detections, v, self.unique_ids)

        def where_real(new, old):
            return jnp.where(real.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(where_real, after, memory), Linked(ids, detections)
