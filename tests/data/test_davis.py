import pickle

import numpy as np
import pytest

from tests.data.image_bytes import encoded
from tests.data.trees import SIZE, davis_tree, frame, labels, same, write_image
from vos_jax.data.davis import open_davis
from vos_jax.data.image_file import upright
from vos_jax.data.masks import write_mask
from vos_jax.data.sources import Source, evaluation_videos


def unsupervised_tree(root, split="val", lists="2017"):
    """A DAVIS tree whose annotations are those of the unsupervised task; ids 1 and 3."""
    davis_tree(root, split=split, ids=(1, 3))
    (root / "Annotations").rename(root / "Annotations_unsupervised")
    if lists != "2017":
        (root / "ImageSets/2017").rename(root / "ImageSets" / lists)
    return root


def test_unsupervised_videos_score_every_frame_and_every_id_up_to_the_highest(tmp_path):
    root = unsupervised_tree(tmp_path)
    first = labels(0, (1, 3))
    first[0] = 255
    write_mask(root / "Annotations_unsupervised/480p/bear/00000.png", first)
    video = open_davis(root, "val", task="unsupervised")[0]
    assert video.dataset == "davis2017" and video.ids.tolist() == [1, 2, 3]
    assert video.scored.shape == (5, 3) and video.scored.all()
    assert video.given[0].all() and not video.given[1:].any()
    assert (video.mask(0) == first).all()


def test_unsupervised_test_splits_are_listed_in_2019_and_may_have_no_mask(tmp_path):
    root = unsupervised_tree(tmp_path, "test-dev", "2019")
    video = open_davis(root, "test-dev", task="unsupervised")[0]
    assert video.annotated.all() and video.ids.tolist() == [1, 2, 3]
    (root / "Annotations_unsupervised").rename(root / "elsewhere")
    videos = open_davis(root, "test-dev", task="unsupervised")
    assert not videos[0].annotated.any() and videos[0].scored.shape == (5, 0)
    assert videos[0].original_size == SIZE
    with pytest.raises(ValueError, match="davis2017/bear: no frame has a mask"):
        evaluation_videos([Source("d", videos)])
    with pytest.raises(FileNotFoundError, match=r"2019/test-challenge\.txt.*exist.*test-dev"):
        open_davis(root, "test-challenge", task="unsupervised")


@pytest.mark.parametrize("split", ["test-dev", "test-challenge"])
def test_semi_supervised_test_splits_have_the_first_mask(tmp_path, split):
    video = open_davis(davis_tree(tmp_path, split=split, masks=1), split)[1]
    assert video.annotated.tolist() == [True] + [False] * 4 and video.ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    "task, other, folder",
    [
        ("unsupervised", "semi-supervised", "Annotations"),
        ("semi-supervised", "unsupervised", "Annotations_unsupervised"),
    ],
)
def test_annotations_of_the_other_task_are_explained(tmp_path, task, other, folder):
    davis_tree(tmp_path, split="val")
    (tmp_path / "Annotations").rename(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / folder)
    message = rf"no such folder; .*only {folder}/480p is there.*set task='{other}'"
    with pytest.raises(FileNotFoundError, match=message):
        open_davis(tmp_path, "val", task=task)


def test_unknown_tasks_and_an_unsupervised_2016_are_refused(tmp_path):
    with pytest.raises(ValueError, match="task one of .*'semi-supervised', 'unsupervised'.*'semi'"):
        open_davis(tmp_path, "val", task="semi")
    with pytest.raises(ValueError, match="2016 has one annotation for both tasks"):
        open_davis(tmp_path, "val", year=2016, task="unsupervised")
    with pytest.raises(ValueError, match="resolution one of .*Full-Resolution.*got '720p'"):
        open_davis(tmp_path, "val", resolution="720p")


def test_year_2016_uses_the_lists_of_2017_only_where_it_has_none(tmp_path):
    davis_tree(tmp_path)
    videos = open_davis(tmp_path, "train", year=2016)
    assert [v.name for v in videos] == ["bear", "dog"] and videos[0].ids.tolist() == [1]
    (tmp_path / "ImageSets/2016").mkdir()
    (tmp_path / "ImageSets/2016/val.txt").write_text("dog\n")
    assert [v.name for v in open_davis(tmp_path, "val", year=2016)] == ["dog"]
    with pytest.raises(FileNotFoundError, match=r"2016/train\.txt.*for year 2016: val"):
        open_davis(tmp_path, "train", year=2016)


def test_full_resolution_is_read_from_its_own_folders(tmp_path):
    davis_tree(tmp_path)
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part / "480p").rename(tmp_path / part / "Full-Resolution")
    (video,) = open_davis(tmp_path, "train", resolution="Full-Resolution")[:1]
    assert "Full-Resolution" in video.mask_files[0] and video.frame(1).shape == (*SIZE, 3)


def test_masks_and_objects_are_read_where_frames_are_placeholders_of_another_size(tmp_path):
    davis_tree(tmp_path)
    for t in range(5):
        write_image(tmp_path / f"JPEGImages/480p/bear/{t:05d}.jpg", frame(0, (4, 4)))
    video = open_davis(tmp_path, "train")[0]
    assert video.ids.tolist() == [1, 2] and video.scored.sum() == 6
    assert video.original_size == SIZE and (video.mask(2) == labels(2)).all()


def test_sequences_without_frames_or_with_two_files_of_a_frame_are_named(tmp_path):
    davis_tree(tmp_path)
    write_image(tmp_path / "JPEGImages/480p/dog/00002.png", frame(0))
    with pytest.raises(ValueError, match=r"480p/dog: expected one image per frame.*00002; keep"):
        open_davis(tmp_path, "train")
    for file in (tmp_path / "JPEGImages/480p/dog").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"480p/dog: the folder holds no frame"):
        open_davis(tmp_path, "train")


@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_videos_pickle(tmp_path, task):
    if task == "unsupervised":
        unsupervised_tree(tmp_path)
    else:
        davis_tree(tmp_path, split="val")
    video = open_davis(tmp_path, "val", task=task)[0]
    copy = pickle.loads(pickle.dumps(video))
    assert same(video, copy)
    assert same(video, pickle.loads(pickle.dumps(copy)))  # once its objects are known


@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_ids_below_the_highest_are_objects_even_without_pixels(tmp_path, task):
    root = davis_tree(tmp_path, names=("bear",), ids=(1, 3))
    if task == "unsupervised":
        (root / "Annotations").rename(root / "Annotations_unsupervised")
    (video,) = open_davis(root, "train", task=task)
    assert video.ids.tolist() == [1, 2, 3]
    assert video.scored.sum() == 3 * (3 if task == "semi-supervised" else 5)


LISTS = {
    "UTF-8 with a mark, lines ended as on Windows": b"\xef\xbb\xbfbear\r\nmy dog\r\n\r\n",
    "UTF-16": "bear\r\nmy dog\r\n".encode("utf-16"),
    "blanks around": b"  bear \n\tmy dog\t\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_whatever_editor_wrote_them(tmp_path, name):
    davis_tree(tmp_path, names=("bear", "my dog"))
    (tmp_path / "ImageSets/2017/train.txt").write_bytes(LISTS[name])
    assert [video.name for video in open_davis(str(tmp_path), "train")] == ["bear", "my dog"]


def test_a_list_in_another_encoding_is_named_with_the_byte(tmp_path):
    davis_tree(tmp_path)
    (tmp_path / "ImageSets/2017/train.txt").write_bytes("bär\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.txt: expected text in UTF-8, .*0xe4 at 1"):
        open_davis(str(tmp_path), "train")


@pytest.mark.parametrize("form", ["/JPEGImages/480p/{0}/00000.jpg /Annotations/480p/{0}/00000.png"])
def test_pairs_of_files_name_their_sequence_also_with_blanks(tmp_path, form):
    davis_tree(tmp_path, names=("bear", "my dog"))
    text = "\n".join(form.format(name) for name in ("bear", "my dog", "bear"))
    (tmp_path / "ImageSets/2017/train.txt").write_text(text)
    assert [video.name for video in open_davis(str(tmp_path), "train")] == ["bear", "my dog"]
    (tmp_path / "ImageSets/2017/train.txt").write_text("a/b\n")
    with pytest.raises(ValueError, match=r"train\.txt: expected a sequence or .*found 'a/b'"):
        open_davis(str(tmp_path), "train")


def test_annotations_may_end_in_capitals(tmp_path):
    davis_tree(tmp_path)
    for file in list((tmp_path / "Annotations").rglob("*.png")):
        file.rename(file.with_suffix(".PNG"))
    video = open_davis(str(tmp_path), "train")[0]
    assert video.annotated.all() and video.ids.tolist() == [1, 2]


@pytest.mark.parametrize("lying", ["like the file", "like the frame"])
def test_masks_of_frames_on_their_side_are_turned_like_them(tmp_path, lying):
    davis_tree(tmp_path, names=("bear",), length=3)
    for t in range(3):
        stem = f"480p/bear/{t:05d}"
        upright_frame = encoded(frame(t), "JPEG", turn=6)
        (tmp_path / f"JPEGImages/{stem}.jpg").write_bytes(upright_frame)
        if lying == "like the frame":
            write_mask(tmp_path / f"Annotations/{stem}.png", upright(labels(t), 6))
    clip = open_davis(str(tmp_path), "train")[0].clip()
    assert clip.frames.shape == (3, 64, 48, 3)
    np.testing.assert_array_equal(clip.masks[1], upright(labels(1), 6))
