"""The page about an evaluation: what it holds, that names do no harm, and that it works."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, Browser
from vos_jax import report
from vos_jax.files import write_whole
from vos_jax.reporting import contents
from vos_jax.reporting.page import write_report

EVIL = "</script><script>alert(1)</script>&'\""


def results_folder(folder, names=("good", "bad"), frames=5, size=(24, 40)):
    """A workdir's results of a few sequences with overlays; returns the folder."""
    results = folder / "runs/results/step_3"
    (results / "overlays").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = {}
    for k, name in enumerate(names):
        rows[name] = {"J&F-Mean": 0.75 - 0.5 * k, "J-Mean": 0.5, "frames": 7}
        images = [
            Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8))
            for _ in range(frames)
        ]
        if "/" not in name:
            images[0].save(
                results / f"overlays/{name}.gif", save_all=True, append_images=images[1:]
            )
    scores = {"protocol": "davis2017", "metrics": {"J&F-Mean": 0.5, "J-Mean": 0.5}}
    scores |= {"per_sequence": rows, "settings": {"videos": len(names), "method": "model"}}
    floor = results / "floors/copy/scores.json"
    floor.parent.mkdir(parents=True)
    for file, content in (
        (results / "scores.json", scores),
        (floor, scores | {"metrics": {"J&F-Mean": 0.1, "J-Mean": 0.2}}),
        (folder / "runs/config.json", {"seed": 3}),
        (folder / "runs/manifest.json", {"jax": "1.2.3", "config": {}, "command": ["secret"]}),
    ):
        write_whole(file, json.dumps(content).encode())
    return results


def embedded(file):
    """What the page's script reads."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL
    )
    return json.loads(text)


def test_a_page_holds_methods_sequences_worst_first_overlays_config_and_versions(tmp_path):
    results = results_folder(tmp_path)
    file = write_report(results)
    assert file.name == "report.html" and file.parent.name == "step_3"
    found = embedded(file)
    assert found["main"] == "J&F-Mean" and found["run"] == "runs/results/step_3"
    assert found["methods"]["model"]["J&F-Mean"] == 0.5
    assert found["methods"]["copy"] == {"J&F-Mean": 0.1, "J-Mean": 0.2}
    assert [row["name"] for row in found["sequences"]] == ["bad", "good"]
    assert [len(row["frames"]) for row in found["sequences"]] == [5, 5]
    assert found["config"] == {"seed": 3} and found["versions"] == {"jax": "1.2.3"}
    text = file.read_text()
    assert not re.search(r"(src|href)=.https?:|@import|url\(", text)  # nothing from a network


def test_names_are_never_read_as_html(tmp_path):
    file = write_report(results_folder(tmp_path, (EVIL, "good")))
    assert EVIL in [row["name"] for row in embedded(file)["sequences"]]
    assert "alert(1)</script>" not in file.read_text()
    assert "innerHTML" not in file.read_text()


def test_long_or_many_overlays_are_thinned_out_from_the_first_to_the_last(tmp_path, monkeypatch):
    results = results_folder(tmp_path, frames=90)
    long = {row["name"]: row["frames"] for row in contents.read_contents(results)["sequences"]}
    assert [len(frames) for frames in long.values()] == [contents.MOST_FRAMES] * 2
    budget = 60_000
    monkeypatch.setattr(contents, "FRAMES_BYTES", budget)
    rows = contents.read_contents(results)["sequences"]
    assert 0 < sum(len(frame) for row in rows for frame in row["frames"]) < 1.5 * budget
    for row in rows:
        assert row["frames"][0] == long[row["name"]][0]
        assert row["frames"][-1] == long[row["name"]][-1]


def test_tracks_are_named_by_their_videos(tmp_path):
    results = results_folder(tmp_path, ("1", "2"))
    videos = [{"id": k, "file_names": [f"clip-{k}/00000.jpg"]} for k in (1, 2)]
    write_whole(results / "gt.json", json.dumps({"videos": videos}).encode())
    for k in (1, 2):
        (results / f"overlays/{k}.gif").rename(results / f"overlays/clip-{k}.gif")
    rows = contents.read_contents(results)["sequences"]
    assert [row["name"] for row in rows] == ["clip-2", "clip-1"]
    assert all(row["frames"] and row["metrics"] for row in rows)


def test_a_folder_of_scores_alone_is_enough_and_one_without_is_refused(tmp_path, capsys):
    scores = {"protocol": "fbms", "metrics": {"J-Mean": 0.5}, "per_sequence": {"a": {}}}
    write_whole(tmp_path / "scores.json", json.dumps(scores).encode())
    report.main(["report", "--results", str(tmp_path)])
    assert f"wrote {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert embedded(tmp_path / "report.html")["config"] is None
    for results, message in (
        (tmp_path, "exists"),
        (tmp_path / "none", "expected a folder that an evaluation wrote"),
    ):
        with pytest.raises(SystemExit) as stop:
            report.main(["report", "--results", str(results)])
        assert message in str(stop.value.code)


@pytest.mark.parametrize("content", ["[]", '{"metrics": 3}', "{"])
def test_scores_of_another_form_are_refused(tmp_path, content):
    write_whole(tmp_path / "scores.json", content.encode())
    with pytest.raises(ValueError, match="scores.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True)])
def test_in_a_browser_columns_sort_and_frames_are_looked_through(tmp_path, width, mobile):
    file = write_report(results_folder(tmp_path, ("good", "bad", "worse", EVIL)))
    names = "[...document.querySelectorAll('#sequences tbody tr')].map(r => r.cells[0].textContent)"
    with Browser(tmp_path / "profile", width, 844, mobile) as browser:
        browser.call("Page.navigate", url=f"file://{file}")
        browser.until("document.querySelectorAll('#sequences tbody tr').length == 4")
        assert browser.js(names) == [EVIL, "worse", "bad", "good"]
        head = "#sequences th:nth-child(2)"
        for order in ("ascending", "descending"):
            browser.js(f"document.querySelector('{head} button').click()")
            sorted_by = browser.js(f"document.querySelector('{head}').getAttribute('aria-sort')")
            assert sorted_by == order
        assert browser.js(names)[0] == "good"
        browser.js("document.querySelector('#sequences td button').click()")
        first = browser.js("document.querySelector('#frame').src")
        key = dict(key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
        browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
        browser.until("document.querySelector('#place').textContent == '2 / 5'")
        assert browser.js("document.querySelector('#frame').src") != first
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.errors == []
