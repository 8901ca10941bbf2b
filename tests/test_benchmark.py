import re
import sys

import pytest

from vos_jax import benchmark

SMALL = ["kernels", "--grid", "9", "12", "--frame", "48", "86", "--rounds", "2"]


def test_table_has_a_row_per_case_and_ratios_to_the_matrix_product(capsys):
    benchmark.main(SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert "grid 9x12" in lines[0] and lines[1].startswith("work")
    rows = {re.split(r"\s{2,}", line)[0]: line for line in lines[2:]}
    for name in ("matrix product", "global, 10 labels", "local K=15, 3 labels"):
        assert re.search(r"\d+\.\d+\s+\d+\.\d+", rows[name])
    assert re.search(r"\d\.\d\d  matrix product", rows["global, 3 labels"])
    assert re.search(r"\d\.\d\d  depthwise 7x7, 256 channels, library", rows[
        "depthwise 7x7, 256 channels"
    ])


@pytest.mark.parametrize("only", ["global, 3", "upsample logits"])
def test_only_keeps_the_cases_with_that_text(only, capsys):
    benchmark.main([*SMALL, "--only", only])
    assert [line.startswith(only) for line in capsys.readouterr().out.splitlines()[2:]] == [True]


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
    names = [re.split(r"\s{2,}", line)[0] for line in lines[2:]]
    assert names[:2] == ["J and F of one frame", "J and F of 20 proposals"] and len(names) == 3


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*SMALL, "--only", "nothing"])
    assert "nothing" in capsys.readouterr().err
