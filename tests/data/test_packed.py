"""A packed data set reads like the folder it was made from, or is refused in words."""

import errno
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from etils import epath

from tests.data import trees
from tests.data.test_still_instances import coco, polygons
from tests.data.test_youtube_vis import tree as youtube_vis_tree
from tests.inference.results import davis_results, youtube_results
from vos_jax import pack as command
from vos_jax.data.packed import INDEX, PackedPath, data_folder
from vos_jax.data.pipeline import Examples, batches
from vos_jax.data.sources import open_sources
from vos_jax.inference.submission import expected_sequences
from vos_jax.pack import pack
from vos_jax.scoring import score

SHOTS = (("cat", "0001", "001"), *((name, "0002", "001") for name in ("dog", "bird")))
KINDS = {  # kind -> (what makes the folder, options of the source)
    "davis": (trees.davis_tree, {"split": "train"}),
    "youtube_vos": (trees.youtube_tree, {"split": "train"}),
    "images": (trees.images_tree, {}),
    "synth_vos": (trees.images_tree, {"backgrounds": "images", "frames": 3}),
    "fbms": (trees.fbms_tree, {"split": "test"}),
    "segtrack": (trees.segtrack_tree, {}),
    "youtube_objects": (lambda root: trees.youtube_objects_tree(root, SHOTS), {"split": "cat"}),
    "coco": (coco, {"split": "val"}),
    "polygons": (polygons, {}),
    "youtube_vis": (youtube_vis_tree, {"split": "train"}),
}
INSTANCES = ("coco", "polygons", "youtube_vis")


def opened(kind, folder):
    entry = {"kind": kind, "dir": str(folder), **KINDS[kind][1]}
    return open_sources({"train": {"set": entry}}, "train")


def examples_of(sources, kind):
    frames, choose = (1, "still") if kind == "images" else (2, "reference_and_run")
    return Examples(sources, frames=frames, crop=(32, 40), max_objects=3, seed=1, choose=choose)


@pytest.fixture
def davis(tmp_path):
    """A folder and its packed form in several files of records."""
    folder = trees.davis_tree(tmp_path / "davis")
    pack(folder, tmp_path / "packed", shard_mb=2e-3)
    return folder, tmp_path / "packed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_gives_the_same_videos_and_examples_packed(kind, tmp_path):
    folder = tmp_path / "plain"
    KINDS[kind][0](folder)
    pack(folder, tmp_path / "packed", shard_mb=2e-3)
    plain, packed = opened(kind, folder), opened(kind, tmp_path / "packed")
    assert len(plain[0].videos) == len(packed[0].videos)
    for one, other in zip(plain[0].videos, packed[0].videos, strict=True):
        assert trees.same(one, other)
        if kind in INSTANCES:
            assert (one.source.clip().masks == other.source.clip().masks).all()
    for i in range(0 if kind in INSTANCES else 3):
        one, other = (examples_of(sources, kind).example(i) for sources in (plain, packed))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_workers_get_the_places_of_their_files_and_make_the_same_examples(davis):
    folder, packed = davis
    sources = opened("davis", packed)
    assert b"Annotations/480p/dog/00002.png" not in pickle.dumps(sources[0].videos[0])
    plain = next(batches(examples_of(opened("davis", folder), "davis"), 0, 2))
    (found,) = itertools.islice(batches(examples_of(sources, "davis"), 0, 2, processes=1), 1)
    assert (found["frames"] == plain["frames"]).all() and found["name"] == plain["name"]


def test_a_clip_takes_one_read_for_each_of_its_files(davis, monkeypatch):
    video = opened("davis", davis[1])[0].videos[0]
    assert len(video.ids)
    asked = Counter()
    kind = type(epath.Path("x"))
    for name in ("open", "stat", "exists", "is_file", "is_dir", "iterdir"):
        plain = getattr(kind, name)

        def counted(self, *args, _plain=plain, _name=name, **kwargs):
            asked[_name] += 1
            return _plain(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, counted)
    video.clip([0, 2])
    assert asked == {"open": 4}


def test_records_are_those_of_tfrecord_files_byte_for_byte(davis):
    tf = pytest.importorskip("tensorflow")
    folder, packed = davis
    shards = sorted(map(str, packed.glob("*.tfrecord")))
    assert len(shards) > 2
    found = [record.numpy() for record in tf.data.TFRecordDataset(shards)]
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    assert found == [file.read_bytes() for file in files]


def test_a_packed_path_is_a_path(davis):
    folder, packed = davis
    root = data_folder(packed)
    frame = root / "JPEGImages/480p/bear/00001.jpg"
    assert isinstance(frame, PackedPath) and data_folder(root) is root and epath.Path(root) is root
    assert str(frame) == f"{packed}/JPEGImages/480p/bear/00001.jpg" == os.fspath(frame)
    assert (frame.name, frame.stem, frame.suffix) == ("00001.jpg", "00001", ".jpg")
    assert frame.is_file() and not frame.is_dir() and frame.parent.is_dir()
    assert frame.read_bytes() == (folder / "JPEGImages/480p/bear/00001.jpg").read_bytes()
    assert pickle.loads(pickle.dumps(frame)).read_bytes() == frame.read_bytes()
    assert (root / "ImageSets/2017/train.txt").read_text() == "bear\ndog\n"
    assert sorted(f.name for f in (root / "JPEGImages" / "480p").iterdir()) == ["bear", "dog"]
    assert root / "JPEGImages" / "../ImageSets/2017" == root / "ImageSets" / "2017"
    for elsewhere in ("/a/b", "gs://a/b", "../../b"):
        assert not isinstance(root / elsewhere, PackedPath)
    assert root.parent == epath.Path(packed.parent)
    nowhere = root / "JPEGImages/nowhere/0.jpg"
    assert not nowhere.exists() and not nowhere.is_file() and not nowhere.is_dir()
    for read in (nowhere.read_bytes, lambda: list(nowhere.iterdir())):
        with pytest.raises(FileNotFoundError, match="nowhere/0.jpg"):
            read()
    with pytest.raises(IsADirectoryError):
        frame.parent.read_bytes()
    with pytest.raises(NotADirectoryError):
        list(frame.iterdir())
    with pytest.raises(ValueError, match="only read"):
        frame.open("wb")


def test_a_cut_changed_mixed_or_missing_file_of_records_is_named(davis, tmp_path):
    folder, packed = davis
    shard = sorted(packed.glob("*.tfrecord"))[0]
    before = shard.read_bytes()
    pack(trees.davis_tree(tmp_path / "other", ids=(3,)), tmp_path / "other packed")
    changed = bytearray(before)
    changed[20] ^= 1
    mixed = next((tmp_path / "other packed").glob("*.tfrecord")).read_bytes()
    for content in (before[:40], bytes(changed), mixed, b""):
        shard.write_bytes(content)
        video = opened("davis", packed)[0].videos[0]
        with pytest.raises(ValueError, match=rf"{shard.name}: cut off or damaged: Annot"):
            video.mask(0)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shard.name}: this and 0 more.*fetch"):
        opened("davis", packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace('"version": 1', '"version": 2'),
            "version 1, .* version 2",
        ),
        (
            lambda text: text.replace("vos_jax packed", "another"),
            "'vos_jax packed folder'",
        ),
        (lambda text: "", "found None"),
        (lambda text: "[1]\n", "found None"),
        (lambda text: text[:-20], "checksum"),
        (lambda text: text.replace("bear/00001", "bear/00009"), "checksum"),
        (lambda text: text.replace("480p", "\0\0\0\0"), "checksum"),
    ],
)
def test_another_index_is_refused_by_its_name(davis, change, message):
    index = davis[1] / INDEX
    index.write_text(change(index.read_text()))
    with pytest.raises(ValueError, match=rf"{INDEX}: .*{message}"):
        opened("davis", davis[1])


def test_parts_and_hidden_files(tmp_path):
    folder = trees.davis_tree(tmp_path / "davis", names=("bear",), length=2)
    (folder / "JPEGImages/.hidden").write_text("-")
    (folder / "JPEGImages/Full-Resolution").mkdir()
    (folder / "JPEGImages/Full-Resolution/big.jpg").write_text("-")
    assert pack(folder, tmp_path / "a")[0] == 6
    parts = ["JPEGImages/480p", "Annotations/480p/", "ImageSets/2017/train.txt", "ImageSets"]
    assert pack(folder, tmp_path / "b", parts)[0] == 5
    assert len(opened("davis", tmp_path / "b")[0].videos) == 1
    for part in ("JPEGImages/720p", "/etc", "../davis"):
        with pytest.raises((ValueError, FileNotFoundError), match=part):
            pack(folder, tmp_path / "c", [part])
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_packed_is_named_and_nothing_is_written(tmp_path):
    folder = trees.davis_tree(tmp_path / "davis", names=("bear",), length=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    for source, out, message in (
        (tmp_path / "nowhere", tmp_path / "out", "nowhere: no such folder"),
        (tmp_path / "empty", tmp_path / "out", "holds no file to pack"),
        (folder, folder, "would be overwritten"),
        (folder, folder / "packed", "lies in --source"),
        (folder, tmp_path / "used", "found notes.txt"),
        (folder, tmp_path / "used/notes.txt", "found notes.txt"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            pack(source, out)
    (folder / "loop").symlink_to(folder)
    with pytest.raises(ValueError, match="loop: a link to a folder that it lies in"):
        pack(folder, tmp_path / "out")
    (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ValueError, match="pipe: neither a file nor a folder"):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and os.listdir(tmp_path / "used") == ["notes.txt"]


def test_a_packed_data_set_is_replaced_whole_or_not_at_all(davis, tmp_path, monkeypatch):
    folder, packed = davis
    held = sorted(os.listdir(packed))
    with pytest.raises(ValueError, match="exists; --overwrite"):
        pack(folder, packed)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("vos_jax.pack.write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            pack(folder, packed, overwrite=True)
    assert sorted(os.listdir(packed)) == held and opened("davis", packed)
    (folder / "ImageSets/2017/train.txt").write_text("dog\n")
    pack(folder, packed, overwrite=True)
    assert not set(os.listdir(packed)) & (set(held) - {INDEX})
    assert [video.name for video in opened("davis", packed)[0].videos] == ["dog"]


def test_a_full_disk_ends_the_command_in_words_and_leaves_nothing(tmp_path):
    folder = trees.davis_tree(tmp_path / "davis")
    (folder / "large").write_bytes(bytes(3_000_000))
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
        "from vos_jax.pack import main; main(sys.argv[1:])"
    )
    words = ["pack", f"--source={folder}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "tfrecord: cannot be written: " in done.stderr and "large" in done.stderr
    assert os.listdir(tmp_path / "out") == []


def test_what_a_killed_packing_left_is_no_data_set_and_the_next_one_clears_it(davis, tmp_path):
    folder, packed = davis
    out = tmp_path / "out"
    out.mkdir()
    for shard in packed.glob("*.tfrecord"):
        shutil.copy(shard, out)
    with pytest.raises(FileNotFoundError, match="JPEGImages/480p: no such folder"):
        opened("davis", out)
    left = set(os.listdir(out))
    pack(folder, out)
    assert not left & set(os.listdir(out)) and len(opened("davis", out)[0].videos) == 2


def test_the_command_packs_and_says_what(tmp_path, capsys):
    folder = trees.davis_tree(tmp_path / "davis", names=("bear",), length=2)
    words = ["pack", f"--source={folder}", f"--out={tmp_path / 'out'}"]
    command.main([*words, "--parts=JPEGImages,Annotations,ImageSets"])
    assert "out: 5 files in 1 files of records, 0.0 MB" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: .*--overwrite"):
        command.main(words)
    header = json.loads((tmp_path / "out" / INDEX).read_text().splitlines()[0])
    assert header["version"] == 1


@pytest.mark.parametrize(
    ("made", "server", "protocol", "subset"),
    [
        (davis_results, "davis2017-test-dev", "davis2017", "train"),
        (youtube_results, "youtube-vos", "youtube-vos", "valid"),
    ],
)
def test_scores_and_zips_take_a_packed_data_set(made, server, protocol, subset, tmp_path):
    data, pred = made(tmp_path)
    packed = tmp_path / "packed"
    pack(data, packed)
    plain, found = (expected_sequences(server, folder) for folder in (data, packed))
    assert [(e.name, e.frames) for e in plain] == [(e.name, e.frames) for e in found]
    if protocol == "davis2017":  # the masks of test-dev are withheld
        pack(trees.davis_tree(tmp_path / "train"), packed, overwrite=True)
        data = tmp_path / "train"
    plain, found = (score(protocol, folder, pred, subset=subset) for folder in (data, packed))
    np.testing.assert_equal(plain.metrics, found.metrics)
    assert len(plain.metrics)
