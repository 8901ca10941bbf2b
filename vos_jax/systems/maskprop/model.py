"""MaskProp: instances of every frame, carried through the clip around it, linked where clips meet.

Bertasius and Torresani, "Classifying, Segmenting, and Tracking Object Instances in Video with Mask
Propagation", CVPR 2020, arXiv 1912.04573. No code was released; this follows the paper's equations,
and below is what it leaves open or what is different here. The branch's own part of that is said in
branch.py, that of clips in clips.py.

    detector        Mask R-CNN on a feature pyramid, where the paper has a cascade of three stages
                    (HTC) on features sampled from neighbouring frames (STSN), which are out of
                    scope: its row with a plain ResNet-50 is 40.0 AP, that with all 46.6.
    refinement      of the box itself, of a side that can be paid for, see refinement.py.
    features        pyramid levels 2, 3 and 4 at one stride (`stride`, 8 or 4), see branch.py.
    masks           of an instance on that grid: each cell's share of it. In training that of the
                    truth or, `predicted_masks` of the time, of the mask head in the true box, which
                    has no gradient from there; the true masks of other frames are cut at 1/2.
    ids             those of a clip differ (`exclusive_ids`); the published rule lets several have
                    one. It needs a score above `id_threshold`, which is not published.
    masks of ids    the mask head's in the frame itself; none where an instance was not detected, or
                    (`fill_missing`) what the clips around carried there, see filling.py.
    track head      the network has MaskTrack R-CNN's, too, so that one detector serves both.
    class, score    of the mean of the detections' probabilities.
    ends of videos  frames beyond them are not shared by clips.

Glossary: B videos, K other frames, N true instances, D slots of detections, T reach, R = 2 T + 1
frames of a clip, h w the grid, C channels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.ops.boxes import ALIGNED
from vos_jax.ops.paste import paste_masks
from vos_jax.ops.roi_align import roi_align
from vos_jax.systems.mask_rcnn.frames import batch_inputs
from vos_jax.systems.mask_rcnn.model import MASK_BINS, Features
from vos_jax.systems.maskprop.branch import PropagationBranch, propagation_losses
from vos_jax.systems.maskprop.clips import ClipMemory, Frame, carried_features, push, start_clips
from vos_jax.systems.maskprop.refinement import Refinement
from vos_jax.systems.masktrack_rcnn import association
from vos_jax.systems.masktrack_rcnn.model import MaskTrackRCNN
from vos_jax.systems.vis_base import Detections, Inputs, Linked

LINKED_BY = ("clips", "track_head")
STRIDES = (4, 8)
LEVELS = 3  # of the pyramid, the finest
_SAMPLES = 2  # along each side of a cell


@struct.dataclass
class FramedFeatures(Features):
    """What is known of frames, and the frames themselves."""

    frame: jax.Array  # float32 [B, H, W, 3], normalised


@struct.dataclass
class LinkedClip(Linked):
    """Detections of a frame with their identities, and their masks in the clip around it."""

    masks: jax.Array  # float32 [B, D, R, h, w] in 0..1
    real: jax.Array  # bool [B, R], frames of the clip that are of the video


class MaskProp(MaskTrackRCNN):
    """Mask R-CNN with a mask propagation branch, and MaskTrack R-CNN's head.

    stride: of the grid that masks are carried on. Further fields of the branch as there, with
    `branch_channels` for its channels. predicted_masks: see above.

    refined_side: of refined masks, 0 for those of the mask head as they are; refinement_channels.

    How it is run: linked_by "clips", or "track_head" for MaskTrack R-CNN's linking of the same
    detections; reach T; id_threshold, exclusive_ids and skip_empty of the linking of clips (see
    ops/clip_linking.py); fill_missing, see above.
    """

    geometry: str = "modern"
    norm_epsilon: float = 0.0
    pre_nms: int = 1000
    post_nms: int = 1000
    max_detections: int = 20
    score_threshold: float = 0.1
    stride: int = 8
    branch_channels: int = 128
    attention_kernel: int = 3
    predictor: str = "linear"
    softmax_over: str = "background"
    dilations: tuple[int, ...] = (1,)
    offset_channels: int = 128
    offset_stride: int = 1
    refined_side: int = 112
    refinement_channels: int = 128
    predicted_masks: float = 0.5
    reach: int = 6
    id_threshold: float = 0.3
    exclusive_ids: bool = True
    skip_empty: bool = False
    fill_missing: bool = False
    instance_chunk: int = 16
    linked_by: str = "clips"

    def setup(self):
        super().setup()
        known = {"model.stride": STRIDES, "inference.linked_by": LINKED_BY}
        for field, choices in known.items():
            if (found := getattr(self, field.split(".")[1])) not in choices:
                raise ValueError(f"config.{field}: expected one of {choices}, found {found!r}")
        self.branch = PropagationBranch(
            channels=self.branch_channels,
            attention_kernel=self.attention_kernel,
            predictor=self.predictor,
            softmax_over=self.softmax_over,
            dilations=self.dilations,
            offset_channels=self.offset_channels,
            offset_stride=self.offset_stride,
            instance_chunk=self.instance_chunk,
            dtype=self.dtype,
        )
        if self.refined_side:
            self.refinement = Refinement(self.refinement_channels, self.dtype)

    @property
    def delay(self) -> int:
        """A frame is linked once the last frame of its clip was seen."""
        return self.reach if self.linked_by == "clips" else super().delay

    def encode(self, inputs: Inputs, train: bool = False) -> FramedFeatures:
        """As `MaskRCNN.encode`."""
        features = super().encode(inputs, train)
        return FramedFeatures(**vars(features), frame=inputs.frame)

    def mask_logits(
        self, features: FramedFeatures, boxes: jax.Array, classes: jax.Array
    ) -> jax.Array:
        """As `MaskRCNN.mask_logits`, refined: float32 [B, R, s, s]."""
        logits, side = super().mask_logits(features, boxes, classes), self.refined_side
        if not side:
            return logits
        boxes = self._continuous(boxes)
        patches = jax.vmap(lambda x, b: roi_align(x, b, side, 1.0, 1, ALIGNED))(
            features.frame, boxes
        )
        patches, flat = (x.reshape(-1, *x.shape[2:]) for x in (patches, logits))
        return self.refinement(patches, flat).reshape(*logits.shape[:2], side, side)

    def start(self, features: FramedFeatures) -> ClipMemory | association.Memory:
        """As `VISModel.start`."""
        if self.linked_by == "track_head":
            return super().start(features)
        videos, grid = len(features.size), self._grid(features)
        slots, side = self.max_detections, self.refined_side or 2 * MASK_BINS
        frame = Frame(
            features=jnp.zeros((videos, *grid, self.branch_channels)),
            masks=jnp.zeros((videos, slots, *grid)),
            valid=jnp.zeros((videos, slots), bool),
            real=jnp.zeros(videos, bool),
            detections=Detections(
                boxes=jnp.zeros((videos, slots, 4)),
                scores=jnp.zeros((videos, slots)),
                classes=jnp.zeros((videos, slots), jnp.int32),
                probabilities=jnp.zeros((videos, slots, self.classes + 1)),
                masks=jnp.zeros((videos, slots, side, side)),
                embeddings=jnp.zeros((videos, slots, self.hidden)),
                valid=jnp.zeros((videos, slots), bool),
            ),
        )
        return start_clips(frame, self.reach)

    def link(
        self,
        memory: ClipMemory | association.Memory,
        features: Features,
        detections: Detections,
        real: jax.Array,
    ) -> tuple[ClipMemory | association.Memory, Linked]:
        """The memory after a frame, and the frame T before it with identities: a `LinkedClip`."""
        if self.linked_by == "track_head":
            return super().link(memory, features, detections, real)
        reduced = self.reduce(features)
        boxes = detections.boxes * jnp.tile(features.scale[:, None, ::-1], 2)
        masks = self.on_grid(detections.masks, boxes, reduced.shape[1:3])
        frame = Frame(reduced, masks, detections.valid, real, detections)
        settings = (self.reach, self.id_threshold, self.exclusive_ids, self.skip_empty)
        memory, clip = push(self.branch, memory, frame, *settings)
        return memory, LinkedClip(clip.ids, clip.detections, clip.masks, clip.real)

    def reduce(self, features: Features) -> jax.Array:
        """What is kept of frames, float32 [B, h, w, C]."""
        return self.branch.reduce(features.maps[:LEVELS], self._grid(features))

    def _grid(self, features: Features) -> tuple[int, int]:
        return features.maps[STRIDES.index(self.stride)].shape[1:3]

    def on_grid(self, logits: jax.Array, boxes: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Each cell's share of masks: logits [B, D, m, m] in boxes on the canvas -> [B, D, h, w].

        A cell is the mean of four samples.
        """
        size = tuple(_SAMPLES * side for side in grid)
        boxes = self._continuous(boxes) * (_SAMPLES / self.stride)
        paste = jax.vmap(lambda x, b: paste_masks(jax.nn.sigmoid(x), b, size, ALIGNED))
        return shares(paste(logits, boxes), _SAMPLES)

    def _continuous(self, boxes: jax.Array) -> jax.Array:
        """Boxes by their borders, whatever the geometry's corners are."""
        return boxes + jnp.array([0, 0, self.convention.extent, self.convention.extent])

    def clip_features(self, memory: ClipMemory, instances: int = 2) -> jax.Array:
        """The paper's figure 5: features of the centre's first instances in all frames of the clip.

        float32 [B, instances, R, h, w, C], after a `link`.
        """
        frames = memory.frames.replace(masks=memory.frames.masks[:, :, :instances])
        return carried_features(self.branch.propagated, frames, self.reach)

    def losses(
        self,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        step: jax.Array,
        propagation_weight: float = 1.0,
        track_weight: float = 0.0,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As `VISModel.losses`: those of the detector, the branch and the track head.

        batch: as in `MaskRCNN.losses`. The middle frame of each example is detected in, and its
        instances are carried to the others; the first is the track head's reference.
        """
        batch = _middle_first(batch)
        videos, count = batch["valid"].shape[:2]
        inputs = [batch_inputs(batch, t) for t in range(count)]
        features = self.encode(jax.tree.map(lambda *x: jnp.concatenate(x), *inputs), train=True)
        features = jax.tree.map(lambda x: x.reshape(count, videos, *x.shape[1:]), features)
        middle, first = (jax.tree.map(lambda x: x[t], features) for t in (0, 1))  # noqa: B023
        parts, sampled, rois = self.detector_losses(middle, batch, key)
        if track_weight:
            loss = self.track_losses(middle, first, batch, sampled, rois)
            parts["track"] = track_weight * loss
        loss = self.propagation_losses(features, batch, jax.random.fold_in(key, 1))
        parts["propagation"] = propagation_weight * loss
        return sum(parts.values()), parts

    def propagation_losses(
        self, features: Features, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> jax.Array:
        """1 - sIoU of each example [B], see branch.py: the first frame's instances in the others.

        features: of all frames, arrays [frames, B, ...]; batch: as in `losses`, of frames in the
        same order; key: of whose masks are carried.
        """
        truth = shares(batch["masks"], self.stride)
        grid = truth.shape[3:]
        middle = jax.tree.map(lambda x: x[0], features)
        boxes, classes = batch["boxes"][:, 0], jnp.maximum(batch["classes"] - 1, 0)
        predicted = self.on_grid(self.mask_logits(middle, boxes, classes), boxes, grid)
        valid = batch["valid"][:, 0]
        drawn = jax.random.bernoulli(key, self.predicted_masks, valid.shape)[..., None, None]
        masks = jnp.where(drawn, jax.lax.stop_gradient(predicted), truth[:, 0])
        masks = jnp.where(valid[..., None, None], masks, 0.0)  # a box of no area has no mask
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), features)
        reduced = self.reduce(flat)
        reduced = jnp.moveaxis(reduced.reshape(-1, len(valid), *reduced.shape[1:]), 0, 1)
        found = self.branch(reduced[:, 0], masks, valid, reduced[:, 1:])
        shown = (truth[:, 1:] >= 0.5) & batch["valid"][:, 1:, :, None, None]
        return propagation_losses(found, shown, valid)

    def __call__(self, inputs: Inputs) -> Detections:
        """The detections of frames; meets every parameter, for `init`."""
        features = self.encode(inputs)
        detections, reduced = self.detect(features), self.reduce(features)
        masks = jnp.zeros((*detections.valid.shape, *reduced.shape[1:3]))
        self.branch(reduced, masks, detections.valid, reduced[:, None])
        return detections


def _middle_first(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The examples with their middle frame before the others."""
    count = batch["valid"].shape[1]
    middle = count // 2
    order = np.array([middle, *(t for t in range(count) if t != middle)])
    of_frames = ("frames", "boxes", "masks", "valid")
    return {**batch, **{name: batch[name][:, order] for name in of_frames}}


def shares(masks: jax.Array, stride: int) -> jax.Array:
    """Mean of each cell of masks [..., H, W], float32 [..., H / stride, W / stride]."""
    *leading, height, width = masks.shape
    grid = (height // stride, stride, width // stride, stride)
    return masks.reshape(*leading, *grid).astype(jnp.float32).mean(axis=(-3, -1))
