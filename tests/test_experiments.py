"""Experiments of the benchmark: what is sent, held and fitted, and the commands that report it."""

import json

import jax
import numpy as np
import pytest

from tests.eight_devices import run_on_eight_devices
from vos_jax import benchmark
from vos_jax.benchmarks.collectives import Collective, collectives, traffic
from vos_jax.benchmarks.scaling import scaling_panels, scaling_table
from vos_jax.benchmarks.sweep import best_fit
from vos_jax.benchmarks.training import Step, step_config
from vos_jax.systems.table import systems_of

PROGRAM = """
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %gathered = f32[16,8]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  ROOT %next = (s32[], f32[4,8]) tuple(%i, %x)
}

%condition (p: (s32[], f32[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %loop = (s32[], f32[4,8]{1,0}) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %both = (f32[2]{0}, bf16[8,16]{1,0}) all-reduce(%a, %b), channel_id=2, to_apply=%add
  %begun = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), dimensions={0}
  %done = f32[16,8]{1,0} all-gather-done(%begun)
  %moved = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[], u32[]) collective-permute-start(%x)
  ROOT %out = f32[4,8]{1,0} copy(%x)
}
"""


def test_collectives_are_found_in_loops_tuples_and_pairs_of_start_and_done():
    assert collectives(PROGRAM) == [
        Collective("all-gather", (16, 8), 512, 3),
        Collective("all-reduce", (2,), 8, 1),
        Collective("all-reduce", (8, 16), 256, 1),
        Collective("all-gather", (16, 8), 512, 1),
        Collective("collective-permute", (4, 8), 128, 1),
    ]


def test_weights_are_what_has_the_dimensions_of_a_parameter_whole_or_in_parts():
    found = traffic(collectives(PROGRAM), [(1, 8, 16)], parts=4)
    assert found == {
        "weights": {
            "all-gather": (4, 2048),
            "all-reduce": (1, 256),
            "collective-permute": (1, 128),
        },
        "activations": {"all-reduce": (1, 8)},
    }
    scalar = Collective("all-reduce", (), 4, 1)
    assert traffic([scalar], [(1,)])["activations"] == {"all-reduce": (1, 4)}
    assert "collective-permute" in traffic(collectives(PROGRAM), [(8, 16)])["activations"]
    row = Collective("all-reduce", (3, 48), 576, 9)
    assert traffic([row], [(3, 3, 1, 48)])["weights"] == {"all-reduce": (9, 5184)}


@pytest.fixture(scope="module")
def small_programs():
    return json.loads(run_on_eight_devices("tests.sharded_programs"))


def test_a_compiled_program_sends_what_its_shardings_ask_for(small_programs):
    assert small_programs["sum"] == [["all-reduce", [16], 64, 1]]
    assert small_programs["gather"] == [["all-gather", [64, 16], 4096, 1]]
    assert small_programs["loop"] == [["all-reduce", [16], 64, 5]]


@pytest.mark.parametrize("system", systems_of("vos"))
def test_eight_devices_hold_at_most_a_sixth_of_parameters_and_optimizer_each(
    system, small_programs
):
    held, whole = small_programs["held"][system]
    assert 6 * held <= whole


def test_the_loops_of_a_step_are_as_long_for_many_clips_as_for_one_and_the_work_is_a_multiple():
    """CFBI has every kind of matching; shapes alone, nothing is compiled."""
    steps = (Step.of(step_config("cfbi", "tiny", batch=n), jax.devices()[:1]) for n in (1, 64))
    one, many = (step.work("gpu") for step in steps)
    assert many.trips == one.trips > 0
    assert many.flops == 64 * one.flops > 0


GATHERED = {"count": 3, "bytes": 2 * 10**6}
REPORT = {
    "device_kind": "cpu",
    "loop_trips": {"1": 5, "8": 5, "64": 5, "loops_of_unknown_length": 2},
    "meshes": [
        {
            "devices": n,
            "data": 1,
            "fsdp": n,
            "batch": n,
            "sent": {
                "weights": {"all-gather": {"count": 3, "bytes": 2 * 10**6}},
                "activations": {},
            },
            "bytes_per_device": {"parameters": 3 * 10**6, "optimizer": 10**6},
            "compiled_memory": {"temp": 7 * 10**6},
        }
        for n in (1, 2)
    ],
}


def test_the_table_of_meshes_has_their_bytes_and_the_collectives_by_kind():
    lines = scaling_table(REPORT).splitlines()
    assert lines[3].split() == ["1", "x", "2", "2", "2.00", "0.00", "4.00", "7.00"]
    assert "1 x 2, weights: 3 all-gather of 2.00 MB" in lines
    assert lines[-1].endswith("1: 5, 8: 5, 64: 5; 2 loops end by their data and count as one trip")
    assert [panel.lines["fsdp=2"] for panel in scaling_panels(REPORT)] == [
        [(2, 2.0)],
        [(2, 0.0)],
        [(2, 4.0)],
        [(2, 7.0)],
    ]


def test_a_fit_finds_the_law_that_made_the_points():
    x = np.array([0.25, 0.5, 1, 2, 4])
    power = best_fit(x, 0.9 - 0.2 * x**-0.7)
    np.testing.assert_allclose(power.values(3.0), 0.9 - 0.2 * 3**-0.7, atol=1e-4)
    assert "x^-0.7" in power.formula and power.residual < 1e-4
    line = best_fit(x[:3], 0.5 + 0.1 * np.log(x[:3]))
    assert line.formula == "0.5 +0.1 log x" and line.residual < 1e-9
    assert best_fit([1, 2], [1, 2]) is None and best_fit([0, 1, 2], [1, 2, 3]) is None


@pytest.fixture
def runs(tmp_path):
    """Four workdirs that differ in width, with the log of two evaluations each."""
    for width, score in ((0.5, 0.6), (1.0, 0.7), (2.0, 0.75), (4.0, 0.78)):
        config = {
            "seed": int(width),
            "model": {"width": width},
            "eval": {"metric": "J&F"},
            "train": {"steps": 10},
        }
        folder = tmp_path / f"w{width}"
        (folder / "logs").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        lines = [{"kind": "train", "step": s, "loss": s / width} for s in (5, 10)]
        lines += [{"kind": "eval", "step": s, "J&F": score * s / 10} for s in (5, 10)]
        log = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "logs/metrics.jsonl").write_text(log)
    return [str(path) for path in sorted(tmp_path.glob("w*"))]


def test_a_sweep_reports_the_last_score_against_what_differs(runs, tmp_path, capsys):
    files = ["--json", str(tmp_path / "sweep.json"), "--plot", str(tmp_path / "sweep.png")]
    benchmark.main(["sweep", *reversed(runs), *files])
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert report["knob"] == "model.width" and report["measure"] == "J&F"
    found = [(point["x"], point["y"]) for point in report["points"]]
    assert found == [(0.5, 0.6), (1.0, 0.7), (2.0, 0.75), (4.0, 0.78)]
    assert f"J&F = {report['fit']['formula']}, x = model.width" in capsys.readouterr().out
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    benchmark.main(["sweep", *runs, "--measure", "loss"])
    assert "20.0000" in capsys.readouterr().out  # of step 10, the last tenth, at width 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--knob", "model.depth"], "that is a number, found 'model.depth'"),
        (["--measure", "IoU"], "has scores J&F; --measure loss"),
    ],
)
def test_a_sweep_of_what_is_not_there_is_refused(arguments, message, runs, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["sweep", *runs, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "stm", "--devices", "999"], "found 999; on a CPU any number can be had"),
        (["scaling", "stm", "--devices", "1", "--fsdp", "3"], "expected a divisor of one of"),
        (["train", "stm", "--fsdp", "2"], "--fsdp: expected a divisor of 1, found 2"),
        (["scaling", "stm", "--devices", "1,x"], "expected numbers from 1 such as 1,2,4"),
    ],
)
def test_devices_that_cannot_be_had_are_refused(arguments, message, capsys):
    jax.devices()  # JAX has begun, so no more fake devices can be made
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err
