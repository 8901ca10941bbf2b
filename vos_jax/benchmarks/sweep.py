"""What the runs of a sweep came to: a score or the loss against the setting that differs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from scipy.optimize import minimize_scalar

from vos_jax.benchmarks.plot import Panel
from vos_jax.checkpoint_folder import absolute, read_json
from vos_jax.metrics.text_table import format_table
from vos_jax.train.logs import read_log

LAST = 0.1  # share of a run whose training loss is averaged
POWERS = (0.05, 5.0)  # c of a power law


class Fit(NamedTuple):
    """formula: y as a function of x, in words. values: of the same. residual: root mean square."""

    formula: str
    values: Any
    residual: float


def sweep_report(runs: Sequence[str], knob: str = "", measure: str = "") -> dict[str, Any]:
    """Knob and measure of every run, and the best of the fits.

    runs: workdirs. knob: a field such as model.width; "": the only number that differs. Several
    numbers, such as the sides of a crop, count as their geometric mean. measure: "loss", the mean
    of the last tenth of the run, or a score of the last evaluation; "": config.eval.metric.
    Raises ValueError where runs or names do not fit, FileNotFoundError for a run without a log.
    """
    configs = [read_json(absolute(run) / "config.json") for run in runs]
    knob = knob or _what_differs(configs)
    measure = measure or configs[0]["eval"]["metric"]
    points = [
        {"run": str(run), "x": _knob(config, knob, run), "y": _measured(run, config, measure)}
        for run, config in zip(runs, configs, strict=True)
    ]
    found = best_fit([p["x"] for p in points], [p["y"] for p in points])
    return {
        "knob": knob,
        "measure": measure,
        "points": sorted(points, key=lambda p: p["x"]),
        "fit": None if found is None else {"formula": found.formula, "residual": found.residual},
    }


def best_fit(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """The power law a + b x^-c or a + b log x, whichever leaves less; None of fewer than 3 x.

    A power law has three parameters, so it takes part from 4 different x on.
    """
    x, y, different = np.asarray(x, float), np.asarray(y, float), len(set(x))
    if different < 3 or min(x) <= 0:
        return None
    fits = [_log_linear(x, y)]
    if different > 3:
        fits.append(_power_law(x, y))
    return min(fits, key=lambda fit: fit.residual)


def _log_linear(x: np.ndarray, y: np.ndarray) -> Fit:
    (a, b), residual = _solved(np.log(x), y)
    return Fit(f"{a:.4g} {b:+.4g} log x", lambda x: a + b * np.log(x), residual)


def _power_law(x: np.ndarray, y: np.ndarray) -> Fit:
    """For each c, a and b solve a linear problem; only c is searched."""
    residual_of = lambda power: _solved(x ** -math.exp(power), y)[1]  # noqa: E731
    bounds = [math.log(power) for power in POWERS]
    c = math.exp(minimize_scalar(residual_of, bounds=bounds, method="bounded").x)
    (a, b), residual = _solved(x**-c, y)
    return Fit(f"{a:.4g} {b:+.4g} x^-{c:.3g}", lambda x: a + b * x**-c, residual)


def _solved(feature: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """a and b of y = a + b feature by least squares, and the root mean square of what is left."""
    columns = np.stack([np.ones_like(feature), feature], axis=1)
    solution = np.linalg.lstsq(columns, y, rcond=None)[0]
    return solution, float(np.sqrt(np.mean((columns @ solution - y) ** 2)))


def _fields(config: Mapping) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(config), sep=".", is_leaf=lambda _, value: value == {})


def _number(value: Any) -> float | None:
    """A number, or the geometric mean of several above 0; None of anything else."""
    values = value if isinstance(value, list | tuple) else [value]
    plain = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if not values or len(plain) < len(values):
        return None
    if len(plain) == 1:
        return float(plain[0])
    return math.exp(sum(map(math.log, plain)) / len(plain)) if min(plain) > 0 else None


def _what_differs(configs: Sequence[Mapping]) -> str:
    all_fields = [_fields(config) for config in configs]
    names = [
        name
        for name in all_fields[0]
        if name != "seed"
        and all(_number(fields.get(name)) is not None for fields in all_fields)
        and len({_number(fields[name]) for fields in all_fields}) > 1
    ]
    if len(names) != 1:
        raise ValueError(
            "--knob: expected runs that differ in one number, found "
            + (f"{', '.join(names)}; name one of them" if names else "no such field")
        )
    return names[0]


def _knob(config: Mapping, knob: str, run: str) -> float:
    value = _number(_fields(config).get(knob))
    if value is None:
        raise ValueError(
            f"--knob: expected a field of {run}/config.json that is a number, found {knob!r}"
        )
    return value


def _measured(run: str, config: Mapping, measure: str) -> float:
    lines = read_log(run)
    if measure == "loss":
        first = (1 - LAST) * config["train"]["steps"]
        # a step that was trained twice counts as it was the last time
        losses = {x["step"]: x["loss"] for x in lines if x.get("kind") == "train"}
        losses = [loss for step, loss in losses.items() if step > first]
        if not losses:
            raise ValueError(f"{run}: expected a log of the last tenth of its steps, found none")
        return float(np.mean(losses))
    scores = [x for x in lines if x.get("kind") == "eval"]
    if not scores or measure not in scores[-1]:
        known = sorted((scores[-1] if scores else {}).keys() - {"kind", "step", "time"})
        found = f"has scores {', '.join(known)}" if known else "has no evaluation"
        raise ValueError(f"--measure {measure}: {run} {found}; --measure loss is always there")
    return scores[-1][measure]


def sweep_table(report: Mapping[str, Any]) -> str:
    """A line for each run and the fit."""
    rows = [("run", report["knob"], report["measure"])]
    rows += [(p["run"], f"{p['x']:g}", f"{p['y']:.4f}") for p in report["points"]]
    fit = report["fit"]
    closing = "no fit: fewer than 3 different settings above 0"
    if fit:
        closing = (
            f"{report['measure']} = {fit['formula']}, x = {report['knob']};"
            f" root mean square of what is left: {fit['residual']:.2g}"
        )
    return f"{format_table(rows)}\n\n{closing}"


def sweep_panels(report: Mapping[str, Any]) -> list[Panel]:
    """The runs as dots, the fit as a line."""
    dots = [(p["x"], p["y"]) for p in report["points"]]
    lines = {}
    found = best_fit(*zip(*dots, strict=True))
    if found is not None:
        between = np.geomspace(dots[0][0], dots[-1][0], 50)
        lines[found.formula] = [(float(x), float(found.values(x))) for x in between]
    return [
        Panel(
            report["measure"], report["knob"], "", lines, {"runs": dots}, found is not None, False
        )
    ]
