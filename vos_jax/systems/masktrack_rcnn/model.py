"""MaskTrack R-CNN: Mask R-CNN with a head that tells which object of the video a box is.

Yang, Fan, Xu, "Video Instance Segmentation", ICCV 2019, arXiv 1905.04804; released code:
youtubevos/MaskTrackRCNN, on mmdet 0.x, whose inclusive boxes are part of what its weights mean.

Deviations from the release: the memory holds the embedding of an object, not its pooled features
(the weights are fixed: the same result), and has a capacity, see `association`.

Glossary as in systems.mask_rcnn.model; M places of the memory, E size of embeddings.
"""

import jax
import jax.numpy as jnp

from vos_jax.nn.detection_heads import TrackHead
from vos_jax.systems.mask_rcnn.model import BOX_BINS, Features, MaskRCNN
from vos_jax.systems.masktrack_rcnn.association import (
    Memory,
    associate,
    comprehensive_scores,
    empty_memory,
)
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
    match_coeff: tuple[float, float, float] = (1.0, 2.0, 10.0)
    use_embedding: bool = True
    capacity: int = 128
    unique_ids: bool = False

    def setup(self):
        super().setup()
        self.track_head = TrackHead(self.hidden, dtype=self.dtype)

    def embed(self, features: Features, boxes: jax.Array) -> jax.Array:
        """Embeddings [B, R, E] of boxes on the canvas."""
        return self.track_head(self.pool(features, boxes, BOX_BINS))

    def start(self, videos: int) -> Memory:
        """As `VISModel.start`."""
        return empty_memory(videos, self.capacity, self.hidden)

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
