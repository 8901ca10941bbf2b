"""Linking by optical flow: masks of the frame before are moved along and compared.

The flow is OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool 2016), dense inverse search, from the
present frame to the one before: every pixel asks where it came from. The masks that MaskProp's
table 3 compares with were moved by FlowNet2; this is the same linking with a flow that needs no
weights.
"""

import cv2
import numpy as np

from vos_jax.inference.linking.base import Found, Linker, best_pairs, mask_overlaps

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class FlowLinker(Linker):
    """A detection is the object of its class whose moved mask it overlaps most.

    least: overlap of the masks that a pair must exceed. preset: of the flow, "ultrafast", "fast" or
    "medium".
    """

    def __init__(self, least: float = 0.1, preset: str = "medium"):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"flow: expected a preset of {', '.join(PRESETS)}, got {preset!r}")
        self._least = least
        self._flow = cv2.DISOpticalFlow_create(PRESETS[preset])
        self._grey: np.ndarray | None = None
        self._found: Found | None = None
        self._ids = np.zeros(0, int)

    def identify(self, frame: np.ndarray, found: Found) -> np.ndarray:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        ids = np.full(len(found), -1)
        if self._found is not None and len(self._found) and len(found):
            moved = move_masks(self._found.masks(), self._flow.calc(grey, self._grey, None))
            same = found.classes[:, None] == self._found.classes
            worth = mask_overlaps(found.masks(), moved) * same
            for d, m in best_pairs(worth, self._least):
                ids[d] = self._ids[m]
        ids[ids < 0] = self.new_ids(int((ids < 0).sum()))
        self._grey, self._found, self._ids = grey, found, ids
        return ids


def move_masks(masks: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Masks bool [N, H, W] of one frame as they lie in another, whose flow to the first is given.

    flow: float32 [H, W, 2], where pixel (y, x) comes from: (x + flow[0], y + flow[1]).
    """
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    x, y = np.rint(x + flow[..., 0]).astype(int), np.rint(y + flow[..., 1]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return masks[:, y.clip(0, height - 1), x.clip(0, width - 1)] & inside
