"""Whatever bytes, names, lists and values come in: read right, or refused in words."""

import functools
import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from hypothesis import strategies as st

from tests.data.image_bytes import encoded, grey_png
from tests.data.trees import davis_tree, youtube_tree
from tests.hostile import JSON, REFUSED, TESTS, hostile
from vos_jax import convert, main, pack, package, segment
from vos_jax.data.davis import open_davis
from vos_jax.data.folders import read_lines
from vos_jax.data.frames import decode_image, in_order
from vos_jax.data.masks import decode_mask
from vos_jax.data.youtube_vos import open_youtube_vos
from vos_jax.inference.streaming import VideoSegmenter
from vos_jax.official.checkpoint_files import read_arrays
from vos_jax.presets.checks import RULES, check_config
from vos_jax.score import parse as parse_score

IDS = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((24, 30), np.uint8))
PHOTO = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1)))
PHOTO = PHOTO.astype(np.uint8)
SOUND = {
    "palette": encoded(IDS, "PNG"),
    "grey": grey_png(IDS, 2),
    "colour": encoded(PHOTO, "PNG"),
    "baseline": encoded(PHOTO, "JPEG"),
    "progressive": encoded(PHOTO, "JPEG", progressive=True, turn=6),
    "webp": encoded(PHOTO, "WEBP"),
    "tiff": encoded(PHOTO, "TIFF"),
    "bmp": encoded(PHOTO, "BMP"),
}


def read_or_refused(read, data):
    """What `read` makes of the data, None where it refuses in words that name the file."""
    try:
        return read(data, "the/file.png")
    except ValueError as error:
        assert "the/file.png" in str(error) and "object at 0x" not in str(error)
        return None


@hostile(st.sampled_from(sorted(SOUND)), st.floats(0, 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_no_checked_pixel(kind, place, change):
    """PNG has checksums: no change may pass. What other formats cannot tell is read as it is."""
    data = bytearray(SOUND[kind])
    data[int(place * (len(data) - 1))] ^= change
    for read in (decode_image, decode_mask):
        found = read_or_refused(read, bytes(data))
        if kind in ("palette", "grey", "colour"):
            assert found is None


@hostile(st.sampled_from(sorted(SOUND)), st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused(kind, share):
    data = SOUND[kind][: int(share * len(SOUND[kind]))]
    if kind == "baseline" and data.endswith(b"\xff"):
        return
    assert read_or_refused(decode_image, data) is None
    assert read_or_refused(decode_mask, data) is None


@hostile(st.binary(max_size=200), st.sampled_from([b"", *(x[:40] for x in SOUND.values())]))
def test_bytes_behind_a_good_beginning_are_refused(rest, beginning):
    assert read_or_refused(decode_image, beginning + rest) is None
    assert read_or_refused(decode_mask, beginning + rest) is None


@hostile(st.binary(max_size=120))
def test_a_list_is_read_or_refused(tmp_path, content):
    davis_tree(tmp_path, names=("bear",), length=1) if not (tmp_path / "JPEGImages").exists() else 0
    listing = tmp_path / "ImageSets/2017/train.txt"
    listing.write_bytes(content)
    try:
        assert all(line.strip() == line and line for line in read_lines(listing))
        open_davis(str(tmp_path), "train")
    except REFUSED as error:
        assert str(tmp_path) in str(error)


LEVELS = {
    "all": lambda x: x,
    "videos": lambda x: {"videos": x},
    "objects": lambda x: {"videos": {"0a1b": {"objects": x}}},
    "facts": lambda x: {"videos": {"0a1b": {"objects": {"2": x}}}},
    "frames": lambda x: {"videos": {"0a1b": {"objects": {"2": {"frames": x}}}}},
}


@hostile(JSON, st.sampled_from(sorted(LEVELS)))
def test_a_meta_json_is_read_or_refused(tmp_path, content, level):
    if not (tmp_path / "train").exists():
        youtube_tree(tmp_path)
    content = LEVELS[level](content)
    (tmp_path / "train/meta.json").write_text(json.dumps(content))
    try:
        open_youtube_vos(tmp_path, "train")
    except REFUSED as error:
        assert str(tmp_path) in str(error)


@hostile(st.lists(st.text("0123456789.ab_-", min_size=1, max_size=9), unique=True, max_size=8))
def test_names_of_any_kind_have_one_order(tmp_path, stems):
    files = [tmp_path / f"{stem}.png" for stem in stems]
    ordered = in_order(files)
    assert sorted(ordered) == sorted(files) and in_order(files[::-1]) == ordered


STAGES = ("data.pretrain.", "data.alternate.")  # whose keys a config need not have


@hostile(
    st.sampled_from([name for name in sorted(RULES) if not name.startswith(STAGES)]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers() | st.text(max_size=3), max_size=3),
)
def test_a_field_keeps_its_rule_or_is_refused_by_its_name(field, value):
    config = (CONFIG if in_config(CONFIG, field) else INSTANCES).copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    value = functools.reduce(lambda section, key: section[key], field.split("."), config)
    try:
        check_config(config)
    except ValueError as error:
        assert f"config.{field}: expected" in str(error) or "config.data" in str(error)
    else:
        assert RULES[field].holds(value)


def in_config(config, field):
    section, _, name = field.rpartition(".")
    return name in functools.reduce(lambda x, key: x.get(key, {}), section.split("."), config)


CONFIG = main.parse(["main", "--config=stm"]).config
INSTANCES = main.parse(["main", "--config=masktrack_rcnn"]).config
COMMANDS = {
    "segment": segment.parse,
    "score": parse_score,
    "package": package.parse,
    "pack": pack.parse,
    "convert": convert.parse,
    "main": main.parse,
}
WORDS = ["--help", "--out=x", "--config=stm", "--config=", "--workers=0", "--mask", "--set=\0"]


@hostile(
    st.sampled_from(sorted(COMMANDS)),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=6).map("--{}".format) | st.text(max_size=6)),
)
def test_a_command_line_is_taken_or_refused_in_one_message(command, words):
    try:
        COMMANDS[command]([command, *words])
    except flags.Error as error:
        assert str(error)


@hostile(
    st.sampled_from(["frame", "labels"]),
    st.sampled_from(["uint8", "int64", "float32", "bool", "complex64", "object", "U3"]),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_a_segmenter_refuses_what_is_no_frame_and_no_label_map(tiny_feelvos, what, dtype, shape):
    segmenter = VideoSegmenter(*tiny_feelvos)
    array = np.zeros(shape, dtype)
    frame, labels = np.zeros((40, 56, 3), np.uint8), np.zeros((40, 56), np.uint8)
    with pytest.raises(ValueError, match="expected"):
        segmenter.step(array, labels) if what == "frame" else segmenter.step(frame, array)


@hostile(st.floats(0, 1), st.integers(1, 255), st.booleans())
def test_a_checkpoint_file_that_is_damaged_is_read_or_refused(tmp_path, place, change, cut):
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.arange(60.0), bias=np.arange(5.0))
    data = bytearray(buffer.getvalue())
    at = int(place * (len(data) - 1))
    data[at] ^= change
    (tmp_path / "a.npz").write_bytes(data[:at] if cut else data)
    try:
        arrays = read_arrays(tmp_path / "a.npz")
    except REFUSED as error:
        assert "a.npz" in str(error)
    else:
        assert not cut and all(np.asarray(x).dtype.kind in "fiu" for x in arrays.values())


def test_there_are_as_many_tests_as_the_inputs_are_shared_among():
    files = Path(__file__).parent.glob("test_hostile_*.py")
    modules = [importlib.import_module(f"tests.{file.stem}") for file in files]
    found = {x for module in modules for x in vars(module).values() if hasattr(x, "hypothesis")}
    assert len(found) == TESTS
