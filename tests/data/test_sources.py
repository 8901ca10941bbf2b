import json
import pickle
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.data.trees import SIZE, davis_tree, frame, labels, same, youtube_tree
from vos_jax.data.davis import open_davis
from vos_jax.data.masks import write_mask
from vos_jax.data.sources import evaluation_videos, open_sources
from vos_jax.data.tfds_davis import open_tfds_davis
from vos_jax.data.youtube_vos import open_youtube_vos


def test_davis_videos_follow_the_official_rules(tmp_path):
    videos = open_davis(davis_tree(tmp_path), "train")
    assert [video.name for video in videos] == ["bear", "dog"]
    clip = videos[1].clip([0, 3])
    assert clip.frames.shape == (2, *SIZE, 3) and clip.frames.dtype == np.uint8
    assert np.abs(clip.frames[1].astype(int) - frame(13)).mean() < 6
    assert (clip.masks == np.stack([labels(0), labels(3)])).all()
    assert clip.frame_names == ["00000", "00003"] and clip.source_index.tolist() == [0, 3]
    video = videos[0]
    assert video.ids.tolist() == [1, 2] and video.original_size == SIZE
    assert video.given.tolist() == [[True, True]] + [[False, False]] * 4
    assert video.scored[:, 0].tolist() == [False, True, True, True, False]
    assert video.annotated.all() and video.categories is None


def test_davis_listing_decodes_no_image(tmp_path, monkeypatch):
    davis_tree(tmp_path)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr("PIL.Image.open", None)
    assert len(open_davis(tmp_path, "train")) == 2


def test_davis_2016_merges_objects_and_reads_0_255_masks(tmp_path):
    davis_tree(tmp_path)
    white = np.where(labels(1) > 0, 255, 0).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "Annotations/480p/bear/00001.png"), white)
    with pytest.raises(ValueError, match=r"00001\.png.*year=2016"):
        open_davis(tmp_path, "train")[0].mask(1)
    listing = tmp_path / "ImageSets/480p/train.txt"
    listing.parent.mkdir()
    pair = "/JPEGImages/480p/bear/{0}.jpg /Annotations/480p/bear/{0}.png\n"
    listing.write_text(pair.format("00000") + pair.format("00001"))
    (video,) = open_davis(tmp_path, "train", year=2016)
    assert video.name == "bear" and video.ids.tolist() == [1]
    assert (video.mask(0) == (labels(0) > 0)).all() and (video.mask(1) == (labels(1) > 0)).all()


def test_davis_test_dev_is_annotated_in_frame_0_only(tmp_path):
    video = open_davis(davis_tree(tmp_path, masks=1), "train")[0]
    assert video.annotated.tolist() == [True] + [False] * 4
    assert not video.scored.any()
    assert video.ids.tolist() == [1, 2]
    assert (video.clip().masks[1:] == 0).all()
    with pytest.raises(ValueError, match="00002 has no mask"):
        video.mask(2)


def test_incomplete_davis_folders_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_davis(tmp_path / "nowhere", "train")
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Annotations/480p: no such folder"):
        open_davis(tmp_path, "train")
    root = davis_tree(tmp_path / "davis")
    with pytest.raises(FileNotFoundError, match=r"val\.txt.*splits that exist.*train"):
        open_davis(root, "val")
    with pytest.raises(FileNotFoundError, match="Full-Resolution: no such folder"):
        open_davis(root, "train", resolution="Full-Resolution")
    with pytest.raises(ValueError, match="year 2016 or 2017, got 2018"):
        open_davis(root, "train", year=2018)
    listing = root / "ImageSets/2017/train.txt"
    listing.write_text("bear\ncat\n")
    with pytest.raises(FileNotFoundError, match="'cat' is listed but has no such folder"):
        open_davis(root, "train")
    listing.write_text("\n")
    with pytest.raises(ValueError, match=r"train\.txt: the list of sequences is empty"):
        open_davis(root, "train")


def test_frames_and_masks_of_a_davis_sequence_must_match(tmp_path):
    root = davis_tree(tmp_path)
    (root / "Annotations/480p/dog/00003.png").unlink()
    with pytest.raises(ValueError, match=r"dog: .*5 frames.*found 4.*without mask: 00003"):
        open_davis(root, "train")
    write_mask(root / "Annotations/480p/dog/00003.png", labels(3, size=(24, 32)))
    with pytest.raises(ValueError, match=r"00003\.png is 24x32.*expected 48x64"):
        open_davis(root, "train")[1].clip([0, 3])


def test_frame_index_outside_the_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bear: frame index 5 is outside 0\.\.4"):
        open_davis(davis_tree(tmp_path), "train")[0].frame(5)


def test_evaluation_needs_an_object_in_the_first_mask_training_does_not(tmp_path):
    root = davis_tree(tmp_path)
    write_mask(root / "Annotations/480p/bear/00000.png", np.zeros(SIZE, np.uint8))
    data = {"eval": {"davis": {"kind": "davis", "dir": str(root), "split": "train"}}}
    sources = open_sources(data, "eval")
    assert sources[0].videos[0].clip([0, 1, 2]).ids.tolist() == []
    with pytest.raises(ValueError, match=r"bear/00000\.png: .*no object"):
        evaluation_videos(sources)


def test_youtube_objects_are_given_where_they_first_appear(tmp_path):
    (video,) = open_youtube_vos(youtube_tree(tmp_path), "train")
    assert len(video) == 11 and video.ids.tolist() == [2, 7]
    assert np.argwhere(video.given).tolist() == [[0, 0], [5, 1]]
    assert np.argwhere(video.scored).tolist() == [[5, 0], [10, 0], [10, 1]]
    assert np.flatnonzero(video.annotated).tolist() == [0, 5, 10]
    assert video.categories == ["penguin", "dog"] and video.original_size == SIZE
    assert set(np.unique(video.mask(5))) == {0, 2, 7}
    (video,) = open_youtube_vos(tmp_path, "train", frames="annotated")
    assert video.frame_names == ["00000", "00005", "00010"]
    assert np.argwhere(video.given).tolist() == [[0, 0], [1, 1]]


def test_youtube_videos_with_withheld_masks_are_given_but_not_scored(tmp_path):
    youtube_tree(tmp_path)
    (tmp_path / "train/Annotations/0a1b/00010.png").unlink()
    (video,) = open_youtube_vos(tmp_path, "train", frames="annotated")
    assert video.frame_names == ["00000", "00005", "00010"]
    assert np.argwhere(video.given).tolist() == [[0, 0], [1, 1]]
    assert not video.scored.any() and video.annotated.tolist() == [True, True, False]


@pytest.mark.parametrize("place", ["valid_all_frames", "all_frames/valid_all_frames"])
def test_youtube_frames_at_the_full_rate_are_used_for_all_frames(tmp_path, place):
    root = youtube_tree(tmp_path, "valid")
    (root / place).mkdir(parents=True)
    shutil.copytree(root / "valid/JPEGImages", root / place / "JPEGImages")
    for t in range(11):
        if t % 5:
            (root / f"valid/JPEGImages/0a1b/{t:05d}.jpg").unlink()
    (video,) = open_youtube_vos(root, "valid")
    assert len(video) == 11 and np.argwhere(video.given).tolist() == [[0, 0], [5, 1]]
    assert len(video.clip().frames) == 11
    (video,) = open_youtube_vos(root, "valid", frames="annotated")
    assert video.frame_names == ["00000", "00005", "00010"]
    (root / "valid").rename(root / "train")
    assert len(open_youtube_vos(root, "train")[0]) == 3
    with pytest.raises(FileNotFoundError, match=r"valid: no such folder; .*test; .* holds "):
        open_youtube_vos(root, "valid")


def test_another_meta_file_chooses_the_videos_and_objects(tmp_path):
    root = youtube_tree(tmp_path)
    meta = json.loads((root / "train/meta.json").read_text())
    del meta["videos"]["0a1b"]["objects"]["7"]
    (root / "train/part.json").write_text(json.dumps(meta))
    for path in ("part.json", str(root / "train/part.json")):
        (video,) = open_youtube_vos(root, "train", meta=path)
        assert video.ids.tolist() == [2] and video.categories == ["penguin"]
    with pytest.raises(FileNotFoundError, match=r"train/rest\.json: no such file"):
        open_youtube_vos(root, "train", meta="rest.json")


@pytest.mark.parametrize("frames", ["all", "annotated"])
def test_youtube_videos_pickle(tmp_path, frames):
    (video,) = open_youtube_vos(youtube_tree(tmp_path), "train", frames)
    assert same(video, pickle.loads(pickle.dumps(video)))


def test_incomplete_youtube_folders_are_explained(tmp_path):
    root = youtube_tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="valid: no such folder"):
        open_youtube_vos(root, "valid")
    (root / "train/Annotations/0a1b/00005.png").unlink()
    with pytest.raises(ValueError, match="object 7 first appears in frame 00005"):
        open_youtube_vos(root, "train")
    (root / "train/JPEGImages/0a1b/00010.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 frames .* the first is 00010"):
        open_youtube_vos(root, "train")
    (root / "train/meta.json").write_text(json.dumps({"clips": {}}))
    with pytest.raises(ValueError, match=r"meta\.json: expected videos"):
        open_youtube_vos(root, "train")
    (root / "train/meta.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"meta\.json: no such file"):
        open_youtube_vos(root, "train")


def test_numbers_in_meta_json_are_taken_as_the_names_they_are_written_as(tmp_path):
    root = youtube_tree(tmp_path)
    objects = {
        "2": {"category": 5, "frames": [0, 5, 10]},
        "7": {"category": None, "frames": ["00005", 10]},
    }
    meta = json.dumps({"videos": {"0a1b": {"objects": objects}}})
    (root / "train/meta.json").write_bytes(b"\xef\xbb\xbf" + meta.encode())
    (video,) = open_youtube_vos(root, "train")
    assert video.categories == ["5", ""]
    assert np.argwhere(video.given).tolist() == [[0, 0], [5, 1]]


@pytest.mark.parametrize("frames", ["00000", [], [1.5], [True], [None], None])
def test_frames_in_meta_json_that_are_no_names_are_refused(tmp_path, frames):
    root = youtube_tree(tmp_path)
    meta = {"videos": {"0a1b": {"objects": {"2": {"frames": frames}}}}}
    (root / "train/meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"meta\.json: expected videos.*object '2' of video"):
        open_youtube_vos(root, "train")


def test_a_cut_meta_json_is_named(tmp_path):
    root = youtube_tree(tmp_path)
    path = root / "train/meta.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"meta\.json: not a readable JSON file: .*cut off"):
        open_youtube_vos(root, "train")


def test_a_tilde_in_a_directory_is_the_home_folder(tmp_path, monkeypatch):
    davis_tree(tmp_path / "DAVIS")
    monkeypatch.setenv("HOME", str(tmp_path))
    entry = {"d": {"kind": "davis", "dir": "~/DAVIS", "split": "train"}}
    (source,) = open_sources({"dir": "", "train": entry}, "train")
    assert [video.name for video in source.videos] == ["bear", "dog"]
    entry["d"]["dir"] = "DAVIS"
    assert open_sources({"dir": "~", "train": entry}, "train")[0].videos[0].name == "bear"


def test_tfds_davis_equals_the_folders_it_was_prepared_from(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    root = davis_tree(tmp_path / "DAVIS")
    (root / "ImageSets/2017/val.txt").write_text("dog\n")
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, urls: tmp_path
    )
    with pytest.raises(FileNotFoundError, match=r"davis/480p: no prepared data set; run `tfds"):
        open_tfds_davis(str(tmp_path / "prepared"), "train")
    open_tfds_davis(str(tmp_path / "prepared"), "train", download=True)
    videos = open_tfds_davis(str(tmp_path / "prepared"), "train")
    expected = open_davis(root, "train")
    assert [video.name for video in videos] == [video.name for video in expected]
    for one, other in zip(videos, expected, strict=True):
        assert same(one, pickle.loads(pickle.dumps(one)))
        one, other = one.clip(), other.clip()
        assert (one.masks == other.masks).all() and (one.scored == other.scored).all()
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 3
        assert one.ids.tolist() == other.ids.tolist()
    assert [v.name for v in open_tfds_davis(str(tmp_path / "prepared"), "val")] == ["dog"]


def test_only_chosen_frames_are_decoded(tmp_path, monkeypatch):
    video = open_davis(davis_tree(tmp_path), "train")[0]
    assert len(video.ids) == 2
    calls = SimpleNamespace(images=0)
    decode = cv2.imdecode

    def counted(*args):
        calls.images += 1
        return decode(*args)

    monkeypatch.setattr(cv2, "imdecode", counted)
    video.clip([0, 3, 4])
    assert calls.images == 3


def test_directories_resolve_against_data_dir_then_the_environment(tmp_path, monkeypatch):
    davis_tree(tmp_path / "DAVIS")
    entry = {"kind": "davis", "dir": "DAVIS", "split": "train", "weight": 0.5, "repeat": 4}
    data = ConfigDict({"dir": str(tmp_path), "train": {"a": entry}})
    (source,) = open_sources(data, "train")
    assert (source.name, len(source.videos), source.weight) == ("a", 2, 2.0)
    monkeypatch.setenv("VOS_JAX_DATA_DIR", str(tmp_path / "DAVIS"))
    data = ConfigDict({"dir": "", "train": {"a": {**entry, "dir": ""}}})
    assert len(open_sources(data, "train")[0].videos) == 2
    monkeypatch.delenv("VOS_JAX_DATA_DIR")
    with pytest.raises(ValueError, match=r"train\.a\.dir is empty.*VOS_JAX_DATA_DIR"):
        open_sources(data, "train")


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"kind": "davids", "split": "val"}, r"eval\.a\.kind.*'davids'.*did you mean 'davis'"),
        ({"kind": "davis", "split": "val", "yeer": 2016}, r"eval\.a\.yeer.*did you mean 'year'"),
        ({"kind": "davis", "dir": "/x"}, r"eval\.a\.split is missing"),
        ({"kind": "synthetic", "split": "test", "weight": 0}, "must be a number above 0"),
        ({"kind": "synthetic", "split": "val"}, r"no split 'val'.*test.*train"),
    ],
)
def test_config_mistakes_name_the_field(entry, message):
    with pytest.raises(ValueError, match=message):
        open_sources({"eval": {"a": entry}}, "eval")


def test_no_source_at_all_is_refused():
    with pytest.raises(ValueError, match=r"config\.data\.train names no source"):
        open_sources({"dir": "", "train": {}}, "train")
