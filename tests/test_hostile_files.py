"""Checkpoints, packed data, results and disks that mean us harm: nothing is run, lost or taken."""

import contextlib
import functools
import io
import json
import os
import pickle
import resource
import shutil
import signal

import numpy as np
import pytest
from hypothesis import strategies as st

from tests import tiny
from tests.data.test_youtube_vis import content_of
from tests.data.trees import SIZE, davis_tree, frame, labels, write_video
from tests.hostile import HOSTILE_NAMES, JSON, changed, hostile, refused_by_name
from tests.inference.results import davis_results
from tests.test_hostile_tracks import results_of
from vos_jax import convert
from vos_jax.checkpoint_folder import export_variables
from vos_jax.data.davis import open_davis
from vos_jax.data.frames import open_frames
from vos_jax.data.masks import write_mask
from vos_jax.data.packed import INDEX
from vos_jax.inference.instance_submission import write_instance_submission
from vos_jax.inference.overlay import OverlayWriter
from vos_jax.inference.submission import expected_sequences, write_submission
from vos_jax.inference.writers import FrameResult, MapWriter, MaskWriter, ProbabilityWriter
from vos_jax.loading import load_variables
from vos_jax.official.checkpoint_files import read_arguments, read_arrays
from vos_jax.pack import pack
from vos_jax.scoring import score
from vos_jax.systems.build import build_model, variable_shapes
from vos_jax.systems.table import SYSTEMS

SERVER = "davis2017-test-dev"


@contextlib.contextmanager
def disk_of(most: int):
    """No file grows beyond so many bytes in here: writing ends as it does on a full disk.

    What is said goes elsewhere: pytest keeps it in a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A DAVIS root with results, and annotations with results of tracks."""
    folder = tmp_path_factory.mktemp("inputs")
    davis_results(folder)
    davis_tree(folder / "train")
    content, _ = content_of()
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results_of(content)))
    return folder


def frames_through(writer):
    with writer:
        for t in range(3):
            soft = np.full((2, *SIZE), t, np.float32)
            writer.write(FrameResult(f"{t:05d}", frame(t), labels(t, (1,)), [1], lambda s=soft: s))


WRITERS = {  # name of the output -> what writes it from the inputs
    "masks": lambda _, out: frames_through(MaskWriter(out, True)),
    "maps": lambda _, out: frames_through(MapWriter(out, [1], True)),
    "soft.npz": lambda _, out: frames_through(ProbabilityWriter(out, [1], 3, SIZE, True)),
    "drawn": lambda _, out: frames_through(OverlayWriter(out, True)),
    "drawn.gif": lambda _, out: frames_through(OverlayWriter(out, True)),
    "drawn.mp4": lambda _, out: frames_through(OverlayWriter(out, True)),
    "packed": lambda inputs, out: pack(inputs / "train", out, overwrite=True),
    "masks.zip": lambda inputs, out: write_submission(
        SERVER, inputs / "pred", out, expected_sequences(SERVER, inputs / "data"), overwrite=True
    ),
    "tracks.zip": lambda inputs, out: write_instance_submission(
        inputs / "results.json", inputs / "gt.json", out, overwrite=True
    ),
    "scores": lambda inputs, out: score(
        "davis2017", inputs / "train", inputs / "pred", subset="train"
    ).write(out, overwrite=True),
}


def held(folder):
    """Name -> bytes of all files in a folder, hidden ones too."""
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    found = {}
    for file in files:
        with open(file, "rb") as opened:
            found[os.path.relpath(file, folder)] = opened.read()
    return found


@hostile(st.sampled_from(sorted(WRITERS)), st.floats(0, 1))
def test_a_full_disk_leaves_every_file_as_it_was_or_whole(inputs, tmp_path, name, share):
    shutil.rmtree(tmp_path / "at", ignore_errors=True)
    (tmp_path / "at").mkdir()
    write, out = WRITERS[name], tmp_path / "at" / name
    write(inputs, out)
    whole = held(tmp_path / "at")
    for file in whole:  # of an earlier run, but those that say what is packed
        if name != "packed":
            (tmp_path / "at" / file).write_bytes(b"earlier")
    before = held(tmp_path / "at")
    with refused_by_name(tmp_path), disk_of(int(share * max(map(len, whole.values())))):
        write(inputs, out)
    after = held(tmp_path / "at")
    if name == "packed":
        assert len(open_davis(out, "train")) == 2 and len(after) == len(whole)
    else:
        assert after.keys() == whole.keys()
        assert all(after[file] in (before[file], whole[file]) for file in after)


@hostile(st.floats(0, 1), st.integers(1, 255), st.booleans(), st.booleans())
def test_packed_data_with_a_changed_byte_is_refused_or_reads_the_same(
    inputs, tmp_path, place, change, cut, in_index
):
    if not (tmp_path / "sound").exists():
        pack(inputs / "train", tmp_path / "sound")
    shutil.rmtree(tmp_path / "packed", ignore_errors=True)
    shutil.copytree(tmp_path / "sound", tmp_path / "packed")
    packed = tmp_path / "packed"
    file = packed / INDEX if in_index else next(packed.glob("*.tfrecord"))
    data = bytearray(file.read_bytes())
    at = int(place * (len(data) - 1))
    data[at] ^= change
    file.write_bytes(data[:at] if cut else data)
    with refused_by_name(packed):
        for video, sound in zip(
            open_davis(packed, "train"), open_davis(inputs / "train", "train"), strict=True
        ):
            assert (video.clip().frames == sound.clip().frames).all()
            assert (video.clip().masks == sound.clip().masks).all()


class Harm:
    """Runs a function when it is unpickled."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


@hostile(
    st.sampled_from([os.mkdir, os.system, eval, exec]),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
    st.sampled_from(["args.pkl", "a.npz", "part of args.pkl"]),
)
def test_nothing_in_a_pickle_is_run(tmp_path, function, protocol, place):
    mark = tmp_path / "harmed"
    command = str(mark) if function is os.mkdir else f"__import__('os').mkdir({str(mark)!r})"
    harm = Harm(function, f"mkdir {mark}" if function is os.system else command)
    if place == "a.npz":
        np.savez(tmp_path / "a.npz", a=np.array([harm], object))
        with pytest.raises(ValueError, match="a.npz"):
            read_arrays(tmp_path / "a.npz")
    else:
        content = harm if place == "args.pkl" else {"lr": 0.1, "more": [1, harm]}
        (tmp_path / "args.pkl").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match="args.pkl"):
            read_arguments(tmp_path)
    assert not mark.exists()


tiny_config = functools.cache(tiny.get_config)


@functools.cache
def target_of(system):
    return variable_shapes(build_model(tiny_config(system).model))


CONVERTED = ("cosnet", "rvos", "stm")


@hostile(
    st.sampled_from(CONVERTED),
    st.dictionaries(
        st.text(max_size=6) | st.sampled_from(["encoder.conv1.weight", "module.fc.bias", "a.b.c"]),
        st.lists(st.integers(0, 3), max_size=4),
        min_size=1,
        max_size=4,
    ),
)
def test_arrays_of_something_else_are_no_checkpoint_of_a_system(system, shapes):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match="."):
        convert._imported(SYSTEMS[system].from_official, arrays, target_of(system))


@hostile(st.floats(0, 1), JSON | HOSTILE_NAMES, st.booleans())
def test_a_checkpoint_with_any_config_is_refused_by_its_name(tmp_path, place, value, all_of_it):
    config = tiny_config("feelvos")
    folder = tmp_path / "checkpoint"
    if not folder.exists():
        export_variables(folder, {"params": {"a": np.zeros(2, np.float32)}}, config, {})
        (tmp_path / "sound.json").write_text((folder / "config.json").read_text())
    sound = json.loads((tmp_path / "sound.json").read_text())
    content = value if all_of_it else {"model": changed(sound["model"], place, value)}
    (folder / "config.json").write_text(json.dumps(content))
    with refused_by_name(folder, "config."):
        _, found = load_variables(str(folder))
        build_model(found.model)


@hostile(st.binary(max_size=60), st.floats(0, 1), st.booleans())
def test_a_video_file_is_read_or_refused(tmp_path, junk, share, cut):
    if not (tmp_path / "sound.avi").exists():
        write_video(tmp_path / "sound.avi", 4)
    data = (tmp_path / "sound.avi").read_bytes()
    at = int(share * len(data))
    path = tmp_path / "clip.avi"
    path.write_bytes(data[:at] + junk + (b"" if cut else data[at + len(junk) :]))
    with refused_by_name(path):
        assert all(image.shape == (*SIZE, 3) for _, image in open_frames(path))


@hostile(
    st.lists(HOSTILE_NAMES | st.text(min_size=1, max_size=6), max_size=3),
    st.sampled_from([".png", ".jpg", ".PNG", "", ".gif"]),
    st.sampled_from(["mask", "frame", "junk"]),
)
def test_a_folder_of_any_files_is_taken_or_refused(tmp_path, names, ending, what):
    shutil.rmtree(tmp_path / "frames", ignore_errors=True)
    (tmp_path / "frames").mkdir()
    for name in names:
        with contextlib.suppress(OSError, ValueError):  # no name of a file
            file = tmp_path / "frames" / (name.replace("/", "_") + ending)
            if what == "mask":
                write_mask(file, labels(0))
            else:
                file.write_bytes(b"junk" if what == "junk" else bytes(encoded_frame()))
    with refused_by_name(tmp_path / "frames"):
        assert all(image.shape == (*SIZE, 3) for _, image in open_frames(tmp_path / "frames"))


@functools.cache
def encoded_frame():
    import cv2

    return cv2.imencode(".jpg", frame(0))[1].tobytes()


@hostile(st.sampled_from(["00000", "00002", "00009", ".."]), st.binary(max_size=40), st.booleans())
def test_results_with_any_file_are_scored_or_refused(inputs, tmp_path, stem, junk, empty):
    pred = tmp_path / "pred"
    shutil.rmtree(pred, ignore_errors=True)
    shutil.copytree(inputs / "pred", pred)
    (pred / f"bear/{stem}.png").write_bytes(b"" if empty else junk)
    with refused_by_name(pred):
        score("davis2017", inputs / "train", pred, subset="train")
    if stem != "..":
        out = tmp_path / "a.zip"
        with pytest.raises(ValueError, match="pred is not ready"):
            expected = expected_sequences(SERVER, inputs / "data")
            write_submission(SERVER, pred, out, expected)
        assert not out.exists()
