"""The benchmark command and what it measures with."""

import argparse
import ctypes
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import quick_compilation
from vos_jax import benchmark
from vos_jax.benchmarks import instances, systems
from vos_jax.benchmarks.measuring import Case, resident_in_use
from vos_jax.benchmarks.stream import Stream, stream_table
from vos_jax.benchmarks.training import step_config
from vos_jax.systems.base import Part
from vos_jax.systems.build import variable_shapes
from vos_jax.systems.table import SYSTEMS, systems_of

SMALL = ["kernels", "--grid", "9", "12", "--frame", "48", "86", "--rounds", "2"]


def test_table_has_a_row_per_case_and_ratios_to_the_matrix_product(capsys):
    benchmark.main(SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert "grid 9x12" in lines[0] and lines[1].startswith("work")
    rows = {re.split(r"\s{2,}", line)[0]: line for line in lines[2:]}
    for name in ("matrix product", "global, 10 labels", "local K=15, 3 labels"):
        assert re.search(r"\d+\.\d+\s+\d+\.\d+", rows[name])
    assert re.search(r"\d\.\d\d\s+matrix product", rows["global, 3 labels"])
    assert re.search(
        r"\d\.\d\d\s+depthwise 7x7, 256 channels, library", rows["depthwise 7x7, 256 channels"]
    )


@pytest.mark.parametrize("only", ["global, 3", "upsample logits"])
def test_only_keeps_the_cases_with_that_text(only, capsys):
    benchmark.main([*SMALL, "--only", only])
    assert [line.startswith(only) for line in capsys.readouterr().out.splitlines()[3:]] == [True]


def test_peak_is_measured_in_another_process_or_refused_where_it_cannot_be(capsys):
    command = [*SMALL, "--only", "global, 3", "--peak"]
    if not sys.platform.startswith("linux"):
        with pytest.raises(SystemExit):
            benchmark.main(command)
        return
    benchmark.main(command)
    assert 0 <= float(capsys.readouterr().out.split()[-1]) < 200


def test_metrics_are_timed_on_the_host(capsys):
    benchmark.main(["metrics", "--frame", "48", "86", "--objects", "2", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    names = [re.split(r"\s{2,}", line)[0] for line in lines[3:]]
    assert names[:2] == ["J and F of one frame", "J and F of 20 proposals"] and len(names) == 3


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*SMALL, "--only", "nothing"])
    assert "nothing" in capsys.readouterr().err


def test_matching_shows_each_ratio_beside_what_it_should_not_exceed(capsys):
    only = "CFBI global"
    benchmark.main(["matching", "--grid", "9", "12", "--rounds", "1", "--only", only])
    lines = capsys.readouterr().out.splitlines()
    rows = {re.split(r"\s{2,}", line)[0]: line for line in lines[2:]}
    assert re.search(r"\d\.\d\d +1\.60  CFBI global, 1 object ", rows["CFBI global, 10 objects"])
    assert re.search(r"\d\.\d\d +0\.35  CFBI global, 2 objects", rows["CFBI global l=2, 2 objects"])


STAGES_OF_A_FRAME = ["whole frame", "encode", "segment", "feedback", "memorize"]


def _calls_of(part: Part, stage: Case) -> list:
    """What a submodule or method gives at each of its calls within a stage."""
    found = []

    def note(call, positional, keywords, context):
        result = call(*positional, **keywords)
        place = context.module.path, context.method_name
        if place in (((part.name,), "__call__"), ((), part.name)):
            found.append(result)
        return result

    with nn.intercept_methods(note):
        stage.function(*stage.arguments())
    return found


@pytest.mark.parametrize("system", systems_of("vos"))
def test_parts_of_a_full_size_frame_give_what_they_give_in_their_stage(system, monkeypatch):
    """Shapes alone: nothing is computed."""

    def zeros(model, rng):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variable_shapes(model))

    monkeypatch.setattr(systems, "init_variables", zeros)
    options = argparse.Namespace(frame=(65, 97), objects=2, dtype="float32", precision="")
    cases = {case.name: case for case in benchmark.stages_by_name()[system](options)}
    found = jax.eval_shape(
        lambda: {name: jax.jit(case.function)(*case.arguments()) for name, case in cases.items()}
    )
    names = list(STAGES_OF_A_FRAME)
    for part in SYSTEMS[system].parts:
        name = part.name.replace("_", " ")
        names += [f"floor of {name}"] * (part.floor is not None) + [name]
        assert found[name] == jax.eval_shape(lambda p=part: _calls_of(p, cases[p.stage]))
        assert jax.tree.leaves(found[name])
    assert list(cases) == names
    assert found["whole frame"][1] == found["segment"]
    assert found["whole frame"][0] == found["memorize"]


@pytest.mark.parametrize("system", ["mask_rcnn", "maskprop"])
def test_stages_of_a_full_size_frame_of_instances_fit_together(system, monkeypatch):
    """Shapes alone: nothing is computed."""

    def zeros(model, rng):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variable_shapes(model))

    monkeypatch.setattr(instances, "init_variables", zeros)
    monkeypatch.setattr(jax, "jit", lambda function: partial(jax.eval_shape, function))
    options = argparse.Namespace(frame=(72, 128), dtype="bfloat16", precision="")
    cases = {case.name: case for case in benchmark.stages_by_name()[system](options)}
    found = {name: jax.eval_shape(case.function, *case.arguments()) for name, case in cases.items()}
    slots = SYSTEMS[system].model().max_detections
    memory, linked = found["whole frame"]
    assert (memory, linked) == found["link"]
    assert linked.detections.boxes.shape == found["detect"].boxes.shape == (1, slots, 4)
    assert found["masks on their grids"].shape == found["detect"].masks.shape
    assert found["masks of the frame"].shape == (1, slots, 72, 128)
    assert found["boxes of proposals"][0].shape[:2] == found["propose"][1].shape
    assert cases["whole frame"].arguments()[0]["params"]


def test_figures_are_kept_and_a_later_run_is_compared_with_them(tmp_path, capsys):
    small = ["matching", "--grid", "9", "12", "--rounds", "1", "--only", "CFBI global, 1 object"]
    file = tmp_path / "before.json"
    benchmark.main([*small, "--json", str(file)])
    kept = json.loads(file.read_text())
    (name,) = kept["cases"]
    kept["cases"][name]["run_ms"] = 1e9
    file.write_text(json.dumps(kept))
    capsys.readouterr()
    benchmark.main([*small, "--against", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert any("grid 9x12" in line and line.startswith("against") for line in lines)
    assert re.search(r"1000000000\.0 +\d+\.\d +0\.00$", lines[-1])


@pytest.mark.parametrize("content", [None, "{", "[]", '{"cases": {"a": {}}}'])
def test_figures_that_cannot_be_read_are_refused_before_anything_is_measured(
    content, tmp_path, capsys
):
    file = tmp_path / "before.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit):
        benchmark.main([*SMALL, "--against", str(file)])
    said = capsys.readouterr()
    assert f"--against {file}: expected a file that --json" in said.err and not said.out


def test_precision_is_an_option_of_systems_that_have_one(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["agame", "--precision", "x3"])
    assert "--precision" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--precision: agame has no distances"):
        step_config("agame", "quick", precision="x3")
    assert step_config("stm", "quick", precision="x3").model.precision == "x3"


def test_a_stream_that_is_as_it_should_be_keeps_all_bounds(capsys):
    with quick_compilation():
        video = ["--frames", "100", "--frame", "33", "49", "--capacity", "2"]
        benchmark.main(["stream", "--system", "stm", *video])
    lines = capsys.readouterr().out.splitlines()
    rows = {re.split(r"\s{2,}", line)[0]: line.split()[-2:] for line in lines[2:]}
    assert rows["compilations of jit(step), frames 0 and 1"] == ["1", "1"]
    assert rows["compilations after frame 1"] == ["0", "0"]
    early, late = (rows[f"arrays on the device, MB, frame {t}"][-1] for t in (50, 90))
    assert early == late


def test_a_stream_that_grows_shows_it_and_noise_does_not():
    rng = np.random.default_rng(0)
    at = range(10, 400, 10)
    noise = rng.uniform(0, 1e6, len(at))  # of one megabyte, without a trend
    samples = [(t, 5, 10**8 + int(x)) for t, x in zip(at, noise, strict=True)]
    steady = Stream([0.01] * 400, [0.01] * 400, {0: ["start"]}, samples)
    growing = Stream(
        [0.01 + 1e-5 * t for t in range(400)],
        [0.01] * 400,
        {1: ["step"], 300: ["step"]},
        [(t, 5 + 100_000 * t, 10**8 + 20_000 * t) for t in at],
    )

    def found(seen):
        lines = stream_table(seen).splitlines()
        return [float(line.split()[-2]) for line in lines if re.search("ratio|slope|after", line)]

    later, clock, cpu, arrays, resident = found(steady)
    assert (later, clock, cpu, arrays) == (0, 1, 1, 0) and abs(resident) < 0.01
    np.testing.assert_allclose(found(growing), [1, 1.3, 1, 0.1, 0.02], atol=0.05, rtol=0.01)


def test_training_clips_are_timed_in_parts_on_one_core_and_by_threads_and_processes(capsys):
    field = "--config.data.transport=float16"
    clips = ["--clips", "3", "--workers", "1", "--stage", "pretrain"]
    benchmark.main(["data", "--config", "stm:quick", field, *clips])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stm, pretrain: 3 clips of 3 frames 160x160, float16, batch 6")
    rows = {(row := re.split(r"\s{2,}", line))[0]: row[1:] for line in lines[3:]}
    assert list(rows) == ["frames", "masks", "augment", "one core", "1 threads", "1 processes"]
    times = {name: float(row[0]) for name, row in rows.items()}
    parts = times["frames"] + times["masks"] + times["augment"]
    assert parts == pytest.approx(times["one core"], abs=0.2) and times["frames"] > 0
    for name, row in rows.items():
        assert len(row) == 1 + (name in ("one core", "1 threads", "1 processes"))
        if len(row) == 2:  # both are rounded to a tenth
            rate = pytest.approx(1000 / times[name], abs=0.1, rel=0.1 / times[name])
            assert float(row[1]) == rate


@pytest.mark.parametrize(
    "flags, message",
    [([], "missing --config"), (["--config", "stm", "--stage", "x"], r"main\|pretrain\|alternate")],
)
def test_training_clips_of_no_config_or_stage_are_refused(flags, message):
    with pytest.raises(SystemExit, match=message):
        benchmark.main(["data", *flags])


RISE_AND_FALL = """
import numpy as np
from vos_jax.benchmarks.measuring import resident_in_use

before = resident_in_use()
kept = [np.ones(1000) for _ in range(8000)]  # 64 MB in pieces that the allocator would keep
held = resident_in_use()
del kept
print(held - before, resident_in_use() - before)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc hands free pages back"
)
def test_memory_in_use_rises_with_what_is_kept_and_falls_when_it_is_dropped():
    """In a process of its own, where nothing else takes or frees memory meanwhile."""
    command = [sys.executable, "-c", RISE_AND_FALL]
    root = Path(benchmark.__file__).parents[1]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    held, left = (int(x) for x in done.stdout.split())
    assert 60e6 < held < 80e6 and abs(left) < 8e6


def test_memory_in_use_is_not_told_where_there_is_no_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert resident_in_use() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "stm", "--frames", "20"], "at least 100, found 20"),
        (["--system", "feelvos", "--capacity", "3"], "feelvos has no such field"),
    ],
)
def test_a_stream_that_says_nothing_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["stream", *arguments])
    assert message in capsys.readouterr().err
