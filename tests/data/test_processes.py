"""Examples made by worker processes are those of threads, and nothing is left of the workers."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.trees import davis_tree
from vos_jax.data.example import clip_columns
from vos_jax.data.pipeline import Examples, batches
from vos_jax.data.processes import WorkerProcesses
from vos_jax.data.sources import Source, open_sources
from vos_jax.data.stages import Staged
from vos_jax.data.synthetic import synthetic_videos

LOADED = ("jax", "tensorflow", "flax", "tests.conftest")


class Unportable(Exception):
    """An error that cannot be made again from its text alone."""

    def __init__(self, frame, reason):
        super().__init__(f"frame {frame}: {reason}")


class Telling:
    """Examples whose names tell of the process that makes them; a few end otherwise."""

    bad_clips = 0

    def columns(self):
        return clip_columns(1, (3, 5), 1)

    def example(self, i):
        if i == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 200:
            raise Unportable(7, "gone")
        loaded = [name for name in LOADED if name in sys.modules]
        return dict(
            frames=np.full((1, 3, 5, 3), i, np.float32),
            labels=np.full((1, 3, 5), i % 256, np.uint8),
            valid=np.array([i % 2 == 1]),
            classes=np.array([i], np.int32),
            name=f"{os.getpid()} {loaded}",
            source_index=np.array([-i], np.int32),
        )


def sources(root, **options):
    entry = {"kind": "davis", "dir": str(root), "split": "train", **options}
    return open_sources({"train": {"davis": entry}}, "train")


def examples(opened, **options):
    given = dict(frames=3, crop=(48, 64), max_objects=4, seed=3)
    return Examples(opened, **{**given, **options})


def gone(pid):
    """Whether a process has ended, be it that nobody has asked how."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_batches_are_to_the_bit_those_of_threads_in_their_order(tmp_path):
    made = examples(sources(davis_tree(tmp_path)))
    synthetic = examples([Source("s", synthetic_videos("train", 4))])
    both = Staged(made, 4, synthetic)
    for place in ({}, {"process_index": 1, "process_count": 2}):
        threads = batches(both, 2, 2, workers=2, **place)
        processes = batches(both, 2, 2, processes=2, **place)
        for one, other in itertools.islice(zip(threads, processes, strict=True), 4):
            assert one.keys() == other.keys() and one["name"] == other["name"]
            for name in set(one) - {"name", "bad_clips"}:
                assert one[name].dtype == other[name].dtype
                np.testing.assert_array_equal(one[name], other[name])
        threads.close()
        processes.close()


def test_each_of_many_examples_arrives_whole_from_workers_that_load_no_framework():
    stream, names = batches(Telling(), 0, 5, processes=3), set()
    for step, batch in enumerate(itertools.islice(stream, 18)):
        numbers = 5 * step + np.arange(5)
        np.testing.assert_array_equal(batch["classes"][:, 0], numbers)
        np.testing.assert_array_equal(batch["source_index"][:, 0], -numbers)
        np.testing.assert_array_equal(batch["valid"][:, 0], numbers % 2 == 1)
        assert (batch["frames"] == numbers[:, None, None, None, None]).all()
        assert (batch["labels"] == numbers[:, None, None, None]).all()
        names |= set(batch["name"])
    pids = {int(name.split()[0]) for name in names}
    assert 1 <= len(pids) <= 3 and os.getpid() not in pids
    assert {name.split(maxsplit=1)[1] for name in names} == {"[]"}
    stream.close()
    assert all(map(gone, pids))


def test_a_broken_file_is_named_or_skipped_and_counted(tmp_path):
    root = davis_tree(tmp_path)
    for t in range(5):
        (root / f"JPEGImages/480p/bear/{t:05d}.jpg").write_bytes(b"cut off")
    stream = batches(examples(sources(root)), 0, 2, processes=2)
    with pytest.raises(ValueError, match=r"^[^\n]*bear/0000\d\.jpg: cannot be read[^\n]*$"):
        list(itertools.islice(stream, 10))
    with WorkerProcesses(examples(sources(root), on_bad_clip="skip"), 2, "float32") as made:
        plain = examples(sources(root), on_bad_clip="skip")
        for i in range(10):
            assert made.example(i)["name"].decode() == plain.example(i)["name"] == "davis2017/dog"
        assert made.bad_clips == plain.bad_clips > 0


def test_a_worker_that_is_killed_is_an_error_that_says_so_and_no_end_of_waiting():
    # it dies of example 100; the first one that misses it may be one that it was asked for before
    with pytest.raises(RuntimeError, match=r"killed by signal 9 before example \d+ .*processes"):
        list(itertools.islice(batches(Telling(), 90, 5, processes=2), 9))


def test_an_error_that_does_not_pickle_comes_with_its_traceback():
    with pytest.raises(RuntimeError, match="in example(.|\n)*Unportable: frame 7: gone"):
        list(itertools.islice(batches(Telling(), 200, 1, processes=1), 1))


PROGRAM = """
import itertools, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from tests.data.test_processes import Telling
from vos_jax.data.example import clip_columns
from vos_jax.data.pipeline import batches

stream = batches(Telling(), 0, 8, processes=2)
for batch in itertools.islice(stream, 4):
    print(*(name.split()[0] for name in batch["name"]), flush=True)
print("ready", flush=True)
time.sleep(1200)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_no_worker_outlives_the_program_or_complains(number):
    """As at a terminal, the signal of Ctrl-C goes to the program and its workers alike."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lines = list(iter(program.stdout.readline, "ready\n"))
    pids = {int(pid) for line in lines for pid in line.split()}
    assert pids
    if number == signal.SIGKILL:
        program.kill()
    else:
        os.killpg(program.pid, number)
    errors = program.communicate(timeout=600)[1]
    assert program.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)
    assert all(map(gone, pids))


def test_a_config_says_how_many_processes_and_what_dtype_frames_travel_in():
    from vos_jax.configs.feelvos import get_config  # here, as workers import this module, too
    from vos_jax.main import training_batches

    config = get_config("quick")
    config.data.update({"processes": 1, "transport": "float16"})
    stream = training_batches(config)(3)
    batch = next(stream)
    stream.close()
    assert batch["frames"].dtype == np.float16 and len(batch["name"]) == config.train.batch
