"""What data-check recognises, counts and finds wrong."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data import test_still_instances, test_youtube_vis
from tests.data.trees import davis_tree, frame, images_tree, labels, write_image, youtube_tree
from vos_jax import data_check
from vos_jax.data.masks import read_mask, write_mask
from vos_jax.data_checks.layouts import check


def one_video(root):
    """Frames and masks of one video, side by side."""
    for t in range(3):
        write_image(root / f"frames/{t:05d}.jpg", frame(t))
    (root / "masks").mkdir()
    write_mask(root / "masks/00000.png", labels(0))
    return root


TREES = {
    "DAVIS": (davis_tree, (2, 10, 10, 4)),
    "YouTube-VOS": (youtube_tree, (1, 11, 3, 2)),
    "YouTube-VIS": (lambda root: test_youtube_vis.tree(root)[0], (2, 8, None, None)),
    "COCO": (test_still_instances.coco, (2, 2, 2, 2)),
    "images with polygons": (test_still_instances.polygons, (2, 2, 2, 2)),
    "pairs of image and mask": (images_tree, (3, 3, 3, 3)),
    "frames of one video and masks": (one_video, (1, 3, 1, 2)),
}


@pytest.mark.parametrize("layout", TREES)
def test_every_layout_is_recognised_and_counted(tmp_path, layout):
    make, counts = TREES[layout]
    found = check(make(tmp_path))
    assert (found.layout, found.problems) == (layout, {})
    read = (found.sequences, found.frames, found.masks, sum(found.objects))
    assert all(a == b for a, b in zip(read, counts, strict=True) if b is not None)
    assert sum(found.sizes.values()) == found.sequences


def test_a_split_of_youtube_vos_and_a_folder_of_frames_are_taken_alone(tmp_path):
    assert check(youtube_tree(tmp_path / "a") / "train").splits == {"train": 1}
    found = check(one_video(tmp_path) / "frames")
    assert found.frames == 3 and "--masks DIR" in found.remarks["folder without masks"][1]
    assert check(tmp_path / "frames", tmp_path / "masks").masks == 1


def grey(values):
    return lambda path: cv2.imwrite(str(path), values.astype(np.uint8))


def deep(path):
    cv2.imwrite(str(path), np.where(labels(0) > 0, 300, 0).astype(np.uint16))


def jpeg(path):
    Image.fromarray(labels(0)).save(path, "JPEG")


SMOOTH = cv2.GaussianBlur(120 * labels(0), (0, 0), 3)
MASKS = {
    "smoothed or compressed mask": grey(SMOOTH),
    "object id out of range": deep,
    "mask of 0 and 255 alone": grey(255 * (labels(0) > 0)),
    "mask in colours that are no ids": lambda path: write_image(path, frame(0)),
    "mask of another size than its frame": grey(labels(0, size=(24, 32))),
    "file that cannot be read": lambda path: path.write_bytes(b"no image"),
    "first mask without object": grey(0 * labels(0)),
    "ids with gaps": grey(2 * labels(0)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_each_fault_of_a_mask_is_a_kind_of_problem_that_names_the_file(tmp_path, kind):
    path = davis_tree(tmp_path, masks=1) / "Annotations/480p/dog/00000.png"
    MASKS[kind](path)
    found = check(tmp_path)
    assert list(found.problems) == [kind]
    count, message = found.problems[kind]
    assert count == 1 and message.startswith(str(path)) and found.first_problem() == message


def test_a_jpeg_that_is_called_png_is_a_compressed_mask(tmp_path):
    jpeg(davis_tree(tmp_path) / "Annotations/480p/bear/00002.png")
    assert list(check(tmp_path).problems) == ["smoothed or compressed mask"]


def test_every_problem_is_counted_and_the_first_of_each_kind_shown(tmp_path, capsys):
    root = davis_tree(tmp_path)
    masks = root / "Annotations/480p"
    for t in (1, 2, 3):
        (masks / f"bear/{t:05d}.png").write_bytes(b"")
    (masks / "dog/00004.png").rename(masks / "dog/00009.png")
    write_image(root / "JPEGImages/480p/dog/00003.jpg", frame(3, (24, 32)))
    (root / "ImageSets/2017/val.txt").write_text("cat\n")
    with pytest.raises(SystemExit, match="not in order: problems 8, kinds 6, listed above"):
        data_check.main(["data-check", str(root)])
    shown = capsys.readouterr().out
    for line in (
        f"  3 x file that cannot be read, the first:\n    {masks}/bear/00001.png: the file is em",
        f"  1 x frame with no mask:\n    {masks}/dog: 00004 of 5 frames; expected",
        f"  1 x mask without frame:\n    {masks}/dog/00009.png: there is no frame",
        f"  1 x frame of another size than the first:\n    {root}/JPEGImages/480p/dog/00003.jpg",
        f"  1 x mask of another size than its frame:\n    {masks}/dog/00003.png: the mask is 48x64",
        f"  1 x listed sequence without folder:\n    {root}/ImageSets/2017/val.txt: cat is not in",
    ):
        assert line in shown


def test_data_in_order_end_with_a_line_that_says_so(tmp_path, capsys):
    data_check.main(["data-check", str(davis_tree(tmp_path))])
    counts, verdict = capsys.readouterr().out.splitlines()
    assert counts == (
        f"{tmp_path}: DAVIS: 2 sequences (2017/train 2), 10 frames, 10 masks, 4 objects, sizes"
        " 48x64 (height x width)"
    )
    assert verdict == "all is well"


def test_what_davis_does_not_score_is_a_remark(tmp_path):
    root = davis_tree(tmp_path)
    write_mask(root / "Annotations/480p/dog/00003.png", labels(0, (1, 2, 5)))
    (root / "ImageSets/2017/train.txt").write_text("dog\n")
    found = check(root)
    assert not found.problems
    assert list(found.remarks) == ["object that is not in the first mask", "sequence in no list"]


def test_davis_folders_without_a_resolution_or_lists_are_told_with_the_fix(tmp_path):
    root = davis_tree(tmp_path)
    shutil.rmtree(root / "ImageSets")
    assert "2017/train.txt: no such list" in check(root).problems["missing file or folder"][1]
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p").rename(root / "kept")
        (root / part).rmdir()
        (root / "kept").rename(root / part)
    found = check(root)
    assert "move the sequences to JPEGImages/480p" in found.first_problem()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({2: ["00000"]}, "object that meta.json does not list"),
        ({2: ["00000"], 7: ["00000"]}, "object that its first mask does not show"),
        ({2: ["00000"], 7: ["00090"]}, "missing file or folder"),
    ],
)
def test_meta_json_and_masks_are_held_against_each_other(tmp_path, change, kind):
    root = youtube_tree(tmp_path)
    objects = {str(k): {"category": "x", "frames": f} for k, f in change.items()}
    content = {"videos": {"0a1b": {"objects": objects}}}
    (root / "train/meta.json").write_text(json.dumps(content))
    found = check(root)
    assert list(found.problems) == [kind], found.problems


def test_frames_of_another_size_than_their_annotations_are_told(tmp_path):
    root = test_still_instances.coco(tmp_path)
    test_still_instances.image(root / "val/b.jpg", 12, 9)
    assert list(check(root).problems) == ["mask of another size than its frame"]
    (root / "val/b.jpg").unlink()
    assert "no such image" in check(root).first_problem()


def test_withheld_annotations_and_damaged_files_are_problems(tmp_path):
    root, _ = test_youtube_vis.tree(tmp_path, annotations=None)
    assert "withheld" in check(root).first_problem()
    (root / "train.json").write_text("{")
    assert "not a readable JSON file" in check(root).first_problem()


def test_pairs_without_their_other_half_are_counted(tmp_path):
    root = images_tree(tmp_path)
    (root / "masks/im0.png").rename(root / "masks/im7.png")
    assert {k: n for k, (n, _) in check(root).problems.items()} == {
        "frame with no mask": 1,
        "mask without frame": 1,
    }


def test_a_folder_of_nothing_known_is_told_what_is_expected(tmp_path):
    (tmp_path / "stuff").mkdir()
    found = check(tmp_path)
    assert found.layout == "" and "holds the folders stuff; expected" in found.first_problem()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        check(tmp_path / "nowhere")
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(ValueError, match="is a file; give the folder"):
        check(tmp_path / "file.json")


def test_the_first_frame_of_a_video_needs_its_mask(tmp_path):
    root = one_video(tmp_path)
    (root / "masks/00000.png").rename(root / "masks/00001.png")
    assert "the first frame, 00000, has none" in check(root).problems["frame with no mask"][1]
    write_mask(root / "masks/00000.png", 0 * labels(0))
    assert list(check(root).problems) == ["first mask without object"]


def test_davis_2016_has_masks_of_0_and_255_and_pairs_in_its_lists(tmp_path):
    root = davis_tree(tmp_path)
    for file in root.glob("Annotations/480p/*/*.png"):
        cv2.imwrite(str(file), 255 * (read_mask(file) > 0).astype(np.uint8))
    lists = root / "ImageSets/480p"
    (root / "ImageSets/2017").rename(lists)
    parts = [f"/{part}/480p/bear/00000" for part in ("JPEGImages", "Annotations")]
    (lists / "train.txt").write_text(f"{parts[0]}.jpg {parts[1]}.png\n")
    found = check(root)
    assert not found.problems and found.splits == {"480p/train": 1} and sum(found.objects) == 2
    assert list(found.remarks) == ["sequence in no list"]


def test_test_splits_of_the_unsupervised_task_need_no_masks(tmp_path):
    root = davis_tree(tmp_path, split="test-dev")
    (root / "ImageSets/2017").rename(root / "ImageSets/2019")
    shutil.rmtree(root / "Annotations")
    found = check(root)
    assert not found.problems and (found.frames, found.masks) == (10, 0)
