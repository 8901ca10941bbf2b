import threading

import numpy as np
import pytest

from tests.eight_devices import PATIENCE
from tests.squares import SIZE, moving_squares
from vos_jax.evaluating.methods import Together
from vos_jax.evaluating.plan import batches, in_order, on_every_process, share
from vos_jax.evaluation import evaluate


def names(groups):
    return [[video.name for video in group] for group in groups]


def test_videos_of_one_shape_and_the_same_given_frames_go_together_by_length():
    videos = [
        moving_squares("long", length=9),
        moving_squares("late", appear=(0, 2)),
        moving_squares("short", length=4),
        moving_squares("wide", size=(24, 40)),
        moving_squares("one", ids=(1,)),
        moving_squares("middle", length=6),
        moving_squares("late too", ids=(5, 9), appear=(0, 2)),
    ]
    found = names(batches(in_order(videos), 2))
    assert found == [["one"], ["short", "middle"], ["long"], ["late", "late too"], ["wide"]]
    assert names(batches(in_order(videos), 1)) == [[x] for group in found for x in group]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_video_is_scored_by_one_process_and_none_has_much_more_work(processes):
    videos = [moving_squares(f"{i:02d}", length=4 + i) for i in range(20)]
    whole = batches(in_order(videos), 2)
    parts = [share(whole, process, processes) for process in range(processes)]
    assert sorted(sum((names(part) for part in parts), [])) == sorted(names(whole))
    assert all(part == [batch for batch in whole if batch in part] for part in parts)
    work = [sum(max(map(len, batch)) for batch in part) for part in parts]
    assert max(work) - min(work) <= max(map(len, videos))


def test_a_process_alone_has_its_own_outcome_and_its_own_error():
    assert on_every_process(lambda: {"a": 1}) == [{"a": 1}]
    with pytest.raises(OSError, match="full"):
        on_every_process(lambda: (_ for _ in ()).throw(OSError("full")))


class Device:
    """Answers for a frame only once the next one has been dispatched, and counts those waiting."""

    def __init__(self, frames):
        self._dispatched = [threading.Event() for _ in range(frames)]
        self._answered, self.waiting = 0, []

    def dispatch(self, frames, labels):
        t = next(i for i, event in enumerate(self._dispatched) if not event.is_set())
        self._dispatched[t].set()
        self.waiting.append(t + 1 - self._answered)

        def answer():
            assert self._dispatched[min(t + 1, len(self._dispatched) - 1)].wait(PATIENCE)
            self._answered += 1
            return np.zeros(SIZE, np.uint8)

        return [answer]


def test_a_frame_is_dispatched_while_the_one_before_is_waited_for_and_no_more_than_that():
    device = Device(6)
    evaluate({"model": Together(lambda videos: device)}, [moving_squares("a")])
    assert len(device.waiting) == 6 and max(device.waiting) == 2


def test_videos_that_end_early_are_dispatched_without_frames_and_have_their_own_scores():
    seen = []

    class Copies:
        """Copies the given masks of each video."""

        def __init__(self, videos):
            self._labels = [np.zeros(SIZE, np.uint8) for _ in videos]

        def dispatch(self, frames, labels):
            seen.append([frame is not None for frame in frames])
            for row, given in enumerate(labels):
                self._labels[row] = self._labels[row] if given is None else given
            return [lambda x=x: x for x in self._labels]

    videos = [moving_squares("a", length=4), moving_squares("b", (3, 200), length=6)]
    together = evaluate({"model": Together(Copies, width=4)}, videos)
    assert seen == [[True, True]] * 4 + [[False, True]] * 2
    alone = evaluate({"model": Together(Copies)}, videos)
    assert together.report() == alone.report()
    assert [o.frames for o in together.methods["model"]] == [2, 2, 4, 4]
