"""The annotation page in a headless Chromium, with a pointer that presses and moves."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, Browser
from tests.tiny import quick_compilation
from vos_jax.annotating.server import AnnotationServer
from vos_jax.annotating.session import Session
from vos_jax.data.frames import open_frames
from vos_jax.data.masks import read_mask
from vos_jax.data.synthetic import synthetic_videos
from vos_jax.inference.streaming import VideoSegmenter

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 900, False), (390, 844, True)])
def test_a_person_paints_undoes_propagates_and_corrects(
    tiny_feelvos, tmp_path, width, height, mobile
):
    video = synthetic_videos("test")[0]
    (tmp_path / "frames").mkdir()
    for t in range(4):
        Image.fromarray(video.frame(t)).save(tmp_path / f"frames/{t}.png")
    source = open_frames(tmp_path / "frames")
    session = Session(VideoSegmenter(*tiny_feelvos), source, tmp_path / "out")
    shots = Path(os.environ.get("VOS_JAX_SCREENSHOTS", tmp_path))
    with quick_compilation(), AnnotationServer(session) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with Browser(tmp_path / "profile", width, height, mobile) as browser:
            browser.call("Page.navigate", url=server.url)
            browser.until("document.querySelectorAll('.object').length == 4")
            browser.until("document.querySelector('#name').textContent.includes('no mask')")
            assert browser.js("document.documentElement.scrollWidth") <= width
            box = browser.box("#paint")

            def at(x, y):
                return box["x"] + x * box["width"], box["y"] + y * box["height"]

            browser.drag(at(0.2, 0.5), at(0.4, 0.5))
            browser.until("state.by_hand.length == 1 && !stroke")
            first = session.mask(0)
            middle = first[first.shape[0] // 2]
            assert set(np.unique(first)) == {0, 1}
            assert middle[round(0.3 * len(middle))] == 1 and middle[round(0.8 * len(middle))] == 0
            browser.click(".object:nth-child(2)")
            browser.drag(at(0.7, 0.3), at(0.8, 0.6))
            browser.until("labels.includes(2)")
            browser.js("saving")
            assert set(np.unique(read_mask(tmp_path / "out/0.png"))) == {0, 1, 2}
            browser.click("#undo")
            browser.until("!labels.includes(2)")
            browser.js("saving")
            np.testing.assert_array_equal(session.mask(0), first)
            browser.click("#erase")
            browser.drag(at(0.2, 0.5), at(0.25, 0.5))
            browser.js("saving")
            assert 0 < (session.mask(0) == 1).sum() < (first == 1).sum()
            browser.js("go(2)")
            browser.until("t == 2")
            browser.drag(at(0.5, 0.5), at(0.6, 0.5))
            browser.until("state.by_hand.includes(2)")
            browser.click("#undo")
            browser.until("!state.done.includes(2)")  # as before the stroke, not an empty mask
            browser.js("go(0)")
            browser.until("t == 0")
            browser.click("#propagate")
            browser.until("state.done.length == 4 && !state.running && t == 3")
            browser.picture(shots / f"annotate_{width}.png")
            browser.click("#back")
            browser.until("t == 2")
            browser.click(".object:nth-child(3)")
            browser.drag(at(0.5, 0.2), at(0.6, 0.2))
            browser.until("state.by_hand.length == 2")
            assert 3 in session.mask(2)
            browser.click("#undo")
            browser.until("state.by_hand.length == 1")  # a propagated mask again
            browser.js("real = ask; ask = async () => { throw new Error('the disk is full') }")
            browser.drag(at(0.5, 0.2), at(0.6, 0.2))
            browser.until("unsaved.includes('the disk is full')")
            browser.js("go(0)")
            assert browser.js("t") == 2 and "not saved yet" in browser.js("$('status').textContent")
            browser.js("ask = real")
            browser.js("go(0)")
            browser.until("t == 0")
            assert 3 in session.mask(2)
            assert not browser.errors
        server.shutdown()
    assert session.state()["by_hand"] == [0, 2]
