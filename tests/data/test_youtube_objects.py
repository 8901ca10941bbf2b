import pickle

import cv2
import numpy as np
import pytest

from tests.data.trees import SIZE, frame, labels, same, write_image, youtube_objects_tree
from vos_jax.data.sources import open_sources
from vos_jax.data.youtube_objects import CATEGORIES, open_youtube_objects, read_label

SHOT = "dog/data/0003/shots/001"


def dogs(root, **options):
    return youtube_objects_tree(root, [("dog", "0003", "001")], **options)


def test_the_object_is_given_in_the_first_annotated_frame_and_scored_in_the_others(tmp_path):
    (video,) = open_youtube_objects(dogs(tmp_path), "dog")
    assert (video.name, video.dataset, len(video)) == ("dog/0003/001", "youtube_objects", 21)
    assert np.flatnonzero(video.annotated).tolist() == [0, 10, 20]
    assert np.flatnonzero(video.given[:, 0]).tolist() == [0]
    assert np.flatnonzero(video.scored[:, 0]).tolist() == [10, 20]
    assert video.ids.tolist() == [1] and video.categories == ["dog"]
    assert video.original_size == SIZE
    assert (video.mask(20) == labels(2, (1,))).mean() > 0.98  # labels are JPEGs


def test_all_ten_categories_are_opened_in_order(tmp_path):
    shots = [(name, "0001", "001") for name in CATEGORIES] + [("cow", "0019", "001")]
    youtube_objects_tree(tmp_path, shots, length=1)
    data = {"eval": {"y": {"kind": "youtube_objects", "dir": str(tmp_path)}}}
    videos = open_sources(data, "eval")[0].videos
    assert len(videos) == 11 and videos[5].name == "cow/0001/001"
    assert [video.categories[0] for video in videos] == sorted([*CATEGORIES, "cow"])


def test_a_single_annotated_frame_is_given_but_nothing_is_scored(tmp_path):
    (video,) = open_youtube_objects(dogs(tmp_path, length=7), "dog")
    assert video.given.sum() == 1 and not video.scored.any()


def test_frames_are_scaled_down_to_smaller_labels(tmp_path):
    (video,) = open_youtube_objects(dogs(tmp_path, scale=2, length=2), "dog")
    assert video.original_size == SIZE and video.frame(1).shape == (*SIZE, 3)
    small = cv2.resize(frame(1, (2 * SIZE[0], 2 * SIZE[1])), SIZE[::-1])
    assert np.abs(video.frame(1).astype(int) - small).mean() < 6
    write_image(tmp_path / SHOT / "images/frame0002.jpg", frame(0, (SIZE[0], 2 * SIZE[1])))
    with pytest.raises(ValueError, match=r"frame0002\.jpg: .*size 48x64 .*found 48x128"):
        video.frame(1)


def test_frames_may_lie_in_a_tree_of_their_own(tmp_path):
    dogs(tmp_path, length=3)
    (tmp_path / SHOT / "images").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"images: no such folder of frames.*option frames"):
        open_youtube_objects(tmp_path, "dog")
    (tmp_path / "v1" / SHOT).parent.mkdir(parents=True)
    (tmp_path / "moved").rename(tmp_path / "v1" / SHOT)
    (video,) = open_youtube_objects(tmp_path, "dog", frames="v1")
    assert len(video) == 3 and video.clip().frames.shape == (3, *SIZE, 3)


def test_labels_are_cut_at_128(tmp_path):
    grey = np.repeat(np.array([[0, 100, 150, 255]], np.uint8), 8, 0).repeat(8, 1)
    assert cv2.imwrite(str(tmp_path / "00001.jpg"), grey)
    assert read_label(tmp_path / "00001.jpg")[:, ::8].tolist() == [[0, 0, 1, 1]] * 8


def test_opening_decodes_no_image(tmp_path, monkeypatch):
    dogs(tmp_path)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr("PIL.Image.open", None)
    assert len(open_youtube_objects(tmp_path, "dog")) == 1


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"split 'all' or one of .*'train'\), got 'val'"):
        open_youtube_objects(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"aeroplane/data: no such folder; YouTube-Objects"):
        open_youtube_objects(dogs(tmp_path))
    (tmp_path / SHOT / "images/frame0011.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 labels have no frame .*: 00011\.jpg"):
        open_youtube_objects(tmp_path, "dog")
    (tmp_path / SHOT / "labels").rename(tmp_path / SHOT / "other")
    with pytest.raises(ValueError, match=r"dog/data: no shot has a folder labels"):
        open_youtube_objects(tmp_path, "dog")


@pytest.mark.parametrize("scale", [1, 2])
def test_videos_pickle(tmp_path, scale):
    (video,) = open_youtube_objects(dogs(tmp_path, scale=scale), "dog")
    assert same(video, pickle.loads(pickle.dumps(video)))
    assert same(video, pickle.loads(pickle.dumps(video)))  # once its size is known
