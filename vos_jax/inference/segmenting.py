"""A video through a segmenter, frame by frame, with every result handed to writers."""

from collections.abc import Iterable, Sequence

import numpy as np

from vos_jax.data.clip import VOID, object_ids
from vos_jax.data.given_masks import GivenMasks
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import FrameResult, Writer
from vos_jax.notes import note


def segment(
    segmenter: VideoSegmenter,
    frames: Iterable[tuple[str, np.ndarray]],
    masks: GivenMasks | None,
    writers: Sequence[Writer],
    evidence: bool = False,
) -> list[int]:
    """Segment frames as they come and hand each result to every writer.

    Args:
        segmenter: one that has not seen a frame.
        frames: (stem, uint8 [H, W, 3] RGB) in time order.
        masks: the given masks; the first frame needs one. None: the system finds its objects.
        writers: get a `FrameResult` per frame. The first frame's labels are its mask as given.
        evidence: the results hold what the system goes by; each frame is encoded once more.

    Returns:
        The ids of all objects met.

    Raises:
        ValueError: the first frame has no mask or a mask without objects, a mask has another size
            than its frame or matches no frame, or there is no frame.
    """
    stems = []
    for stem, frame in frames:
        given = None if masks is None else masks.at(stem, frame.shape[:2])
        if masks is not None and not stems:
            _check_first(stem, given, masks)
        if given is not None:
            _tell(masks.name(stem), given)
        seen = segmenter.evidence(frame) if evidence else {}
        labels = segmenter.step(frame, given)
        result = FrameResult(
            stem, frame, labels, tuple(segmenter.ids), segmenter.probabilities, seen
        )
        for writer in writers:
            writer.write(result)
        stems.append(stem)
    if not stems:
        raise ValueError("there are no frames to segment")
    if masks is not None:
        masks.check_stems(stems)
    return list(segmenter.ids)


def _check_first(stem: str, mask: np.ndarray | None, masks: GivenMasks) -> None:
    if mask is None:
        raise ValueError(
            f"{masks.path}: the first frame, {stem}, has no mask; add {stem}.png, or start the "
            "frames where the first object is given"
        )
    if not object_ids(mask):
        raise ValueError(
            f"{masks.path}: the mask of the first frame, {stem}, holds no object: expected at "
            f"least one id in 1..254, found {np.unique(mask).tolist()}"
        )


def _tell(name: str, mask: np.ndarray) -> None:
    """What a given mask holds that a user may not expect."""
    void = int((mask == VOID).sum())
    if void:
        note(f"{name}: {void} pixels are 255, which means void: unknown, of no object")
    if not object_ids(mask):
        note(
            f"{name} holds no object and changes nothing: a later mask adds or corrects the objects"
            " in it, and no others"
        )
