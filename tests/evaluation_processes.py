"""One of several processes that evaluate together; test_evaluation_processes starts them.

Arguments: process number, number of processes, port of the coordinator, folder, case.
Cases: "scores" (a toy system and a floor) and "failure" (process 1 cannot read a frame).
Each process writes which videos it has begun to <folder>/begun_<process>.json.
"""

import json
import sys
from dataclasses import replace

import jax
import numpy as np

from tests.squares import moving_squares
from tests.systems.toys import Recurrent
from tests.tiny import lively, quick_compilation
from vos_jax.evaluating.methods import Together, segmenters
from vos_jax.evaluation import Results, evaluate
from vos_jax.inference.setup import Inference
from vos_jax.metrics.floors import CopyMask
from vos_jax.systems.build import variable_shapes


def clips() -> list:
    """Eight: five that go together, of several lengths; one with a late object, two with one."""
    videos = [moving_squares(f"clip{i}", length=4 + i % 3, enlarged=2) for i in range(5)]
    videos.append(moving_squares("late", length=5, appear=(0, 2), enlarged=2))
    return videos + [moving_squares(f"one{i}", ids=(7,), length=5, enlarged=2) for i in range(2)]


def run(out_dir, begun: list[str]) -> Results:
    """The evaluation of the clips; the names of those that the model begins with join `begun`."""
    model = Recurrent()
    method = segmenters(Inference(model, slots=2), lively(variable_shapes(model), seed=3))

    def begin(videos):
        begun.extend(video.name for video in videos)
        return method(videos)

    counted: Together = replace(method, begin=begin)
    return evaluate({"model": counted, "copy": lambda video: CopyMask()}, clips(), out_dir=out_dir)


def fail() -> None:
    """Evaluates videos of which those of process 1 cannot be read."""

    class Broken:
        def step(self, frame, labels=None):
            if jax.process_index() == 1:
                raise OSError("disk on fire")
            return np.zeros(frame.shape[:2], np.uint8)

    evaluate({"model": lambda video: Broken()}, clips())


def main(process: str, processes: str, port: str, folder: str, case: str) -> None:
    jax.distributed.initialize(
        f"localhost:{port}",
        num_processes=int(processes),
        process_id=int(process),
        initialization_timeout=1200,
    )
    if case == "failure":
        fail()
        return
    begun: list[str] = []
    with quick_compilation():
        results = run(f"{folder}/results", begun)
    content = {"begun": begun, "metrics": results.metrics["model"]}
    content["devices"] = jax.local_device_count()
    with open(f"{folder}/begun_{process}.json", "w") as file:
        json.dump(content, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
