import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_system
from vos_jax.data.masks import davis_palette
from vos_jax.inference.evidence import GAP, TITLE, EvidenceWriter, check_evidence
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.inference.writers import FrameResult
from vos_jax.systems.build import build_model
from vos_jax.systems.views import Views

SIZE = (20, 30)


def result(evidence):
    frame = np.full((*SIZE, 3), 90, np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    labels[:, :10] = 7
    return FrameResult("00003", frame, labels, (7, 2), None, evidence)


def test_a_sheet_has_a_row_for_each_object_and_a_column_for_each_map(tmp_path):
    near = np.stack([np.zeros((2, 3)), np.eye(2, 3)]).astype(np.float32)
    with EvidenceWriter(tmp_path / "out") as writer:
        writer.write(result({"near": near, "far": 1 - near}))
    sheet = np.asarray(Image.open(tmp_path / "out/00003.png"))
    assert sheet.shape == (2 * (SIZE[0] + TITLE + GAP), 3 * (SIZE[1] + GAP), 3)
    rows = sheet.reshape(2, -1, 3, SIZE[1] + GAP, 3).swapaxes(1, 2)[:, :, TITLE:-GAP, :-GAP]
    assert (rows[0, 0, 5, 2] == (90 + davis_palette()[7].astype(int)) // 2).all()  # its own pixels
    assert (rows[1, 0, 5, 2] == 90).all()  # not the other's
    low, high = rows[0, 1, 0, 0], rows[0, 2, 0, 0]
    assert (rows[0, 1] == low).all() and (rows[0, 2] == high).all() and high.sum() > low.sum()
    assert (rows[1, 1, :10, :10] == high).all() and (rows[1, 1, :10, 10:] == low).all()


def test_frames_before_which_no_object_was_known_have_no_sheet(tmp_path):
    with EvidenceWriter(tmp_path / "out") as writer:
        writer.write(result({}))
    assert not list((tmp_path / "out").iterdir())


def test_a_system_without_maps_is_refused_also_in_views():
    model = build_model({"name": "rvos"})
    for asked in (model, Views(model)):
        with pytest.raises(ValueError, match="RVOS has no maps to show: leave out --evidence"):
            check_evidence(asked)
    check_evidence(Views(build_model({"name": "stm"})))


def test_all_attention_goes_to_the_first_frame_as_long_as_there_is_no_other():
    model, variables = tiny_system("stm", memory_every=1)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 48, 64, 3)).astype(np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:40] = 5
    segmenter, shares = VideoSegmenter(Views(model, flip=True), variables), []
    for t, frame in enumerate(frames):
        shares.append(segmenter.evidence(frame).get("first_frame_attention"))
        segmenter.step(frame, mask if t == 0 else None)
    assert shares[0] is None and shares[1].shape == (1, 3, 4)
    np.testing.assert_allclose(shares[1], 1, atol=1e-5)
    assert 0 < shares[2].min() and shares[2].max() < 1 - 1e-3


def test_a_distance_is_nothing_where_the_frame_is_the_one_that_was_given():
    model, variables = tiny_system("feelvos")
    frame = np.random.default_rng(1).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 5
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frame, mask)
    for maps in segmenter.evidence(frame).values():
        width = maps.shape[2]
        assert np.abs(maps[0, :, width // 2 + 1 :]).max() < 1e-4
        assert maps[0, :, : width // 2 - 1].mean() > 1e-3


def test_the_components_of_an_appearance_share_each_pixel():
    model, variables = tiny_system("agame")
    frame = np.random.default_rng(2).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 5
    segmenter = VideoSegmenter(model, variables)
    segmenter.step(frame, mask)
    maps = segmenter.evidence(frame)
    assert maps.keys() == {"background", "target", "target_like_background", "distractors"}
    np.testing.assert_allclose(sum(maps.values()), 1, atol=1e-5)
    target = maps["target"] + maps["target_like_background"]
    assert target[..., 2:].mean() > target[..., :2].mean()
