"""Annotating: the session on disk, and the server that lets one page of one machine at it."""

import http.client
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from PIL import Image

from tests.data.trees import write_video
from tests.tiny import quick_compilation
from vos_jax import annotate as command
from vos_jax.annotating.server import AnnotationServer
from vos_jax.annotating.session import Busy, Session
from vos_jax.data.frames import open_frames
from vos_jax.data.masks import encode_mask, read_mask
from vos_jax.inference.streaming import VideoSegmenter

SIZE = (10, 14)


class Stub:
    """Says the number of its frame plus 10 where the last given mask was; can be held."""

    def __init__(self):
        self.given, self.go, self.entered = [], threading.Event(), threading.Event()
        self.go.set()

    def reset(self):
        self.given = []

    def step(self, frame, labels=None):
        t = int(frame[0, 0, 0])
        if labels is not None:
            self.given.append((t, labels))
        if len(self.given) and t != self.given[0][0]:
            self.entered.set()
            assert self.go.wait(20)
        if t == 99:
            raise ValueError("out of luck")
        return np.where(self.given[-1][1] > 0, t + 10, 0).astype(np.uint8)


@pytest.fixture
def frames(tmp_path):
    """Five frames f2, f9, f10, f11, f12, whose pixels are 0, 1, 2, 3, 4."""
    (tmp_path / "frames").mkdir()
    for t, n in enumerate((2, 9, 10, 11, 12)):
        Image.new("RGB", SIZE[::-1], (t, t, t)).save(tmp_path / f"frames/f{n}.png")
    return open_frames(tmp_path / "frames")


@pytest.fixture
def session(frames, tmp_path):
    return Session(Stub(), frames, tmp_path / "out")


def drawn(i, rows=3):
    labels = np.zeros(SIZE, np.uint8)
    labels[:rows] = i
    return labels


def test_a_mask_is_on_disk_as_soon_as_it_is_drawn_and_a_restart_finds_it(session, frames, tmp_path):
    session.draw(1, encode_mask(drawn(7)))
    np.testing.assert_array_equal(read_mask(tmp_path / "out/f9.png", SIZE), drawn(7))
    session.close()
    again = Session(Stub(), frames, tmp_path / "out")
    assert (again.state()["done"], again.state()["by_hand"]) == ([1], [1])
    np.testing.assert_array_equal(again.mask(1), drawn(7))
    assert not again.mask(0).any()


def test_a_drawing_is_never_taken_for_a_propagated_mask(session, frames, tmp_path, monkeypatch):
    session.draw(0, encode_mask(drawn(1)))
    session.propagate(0)
    session.wait()

    def killed(*_):
        raise KeyboardInterrupt

    for name in ("write_json", "write_mask"):  # whichever of the two is the last to be written
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"vos_jax.annotating.session.{name}", killed)
            session.draw(1, encode_mask(drawn(7)))
        session.close()
        session = Session(Stub(), frames, tmp_path / "out")
        drawing = (session.mask(1) == 7).any()
        assert not drawing or 1 in session.state()["by_hand"]


def test_a_frame_whose_drawing_is_taken_back_is_propagated_to(session):
    session.draw(0, encode_mask(drawn(1)))
    session.draw(2, encode_mask(drawn(5)))
    session.remove(2)
    assert (session.state()["done"], session.state()["by_hand"]) == ([0], [0])
    session.propagate(0)
    session.wait()
    np.testing.assert_array_equal(session.mask(2), drawn(12))


def test_a_folder_has_one_session_at_a_time(session, frames, tmp_path):
    with pytest.raises(ValueError, match="another session has it open; end that one first"):
        Session(Stub(), frames, tmp_path / "out")
    session.close()
    Session(Stub(), frames, tmp_path / "out").close()


def test_propagation_fills_the_frames_after_this_one_and_keeps_what_is_drawn(session, tmp_path):
    session.draw(1, encode_mask(drawn(7)))
    session.draw(3, encode_mask(drawn(5, rows=2)))
    session.propagate(1)
    session.wait()
    assert [t for t, _ in session._segmenter.given] == [1, 3]  # the system is told of both
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "annotation.json", "f10.png", "f11.png", "f12.png", "f9.png"
    ]  # fmt: skip
    np.testing.assert_array_equal(session.mask(2), drawn(12))
    np.testing.assert_array_equal(session.mask(3), drawn(5, rows=2))
    np.testing.assert_array_equal(session.mask(4), drawn(14, rows=2))
    state = session.state()
    assert (state["done"], state["by_hand"], state["running"]) == ([1, 2, 3, 4], [1, 3], False)
    session.release(3)
    session.propagate(1)
    session.wait()
    np.testing.assert_array_equal(session.mask(3), drawn(13))


def test_stop_ends_after_the_present_frame_and_nothing_is_drawn_meanwhile(session):
    session.draw(0, encode_mask(drawn(1)))
    session._segmenter.go.clear()
    session.propagate(0)
    assert session._segmenter.entered.wait(20)
    for change in (lambda: session.draw(0, encode_mask(drawn(2))), lambda: session.propagate(0)):
        with pytest.raises(Busy, match="stop it first"):
            change()
    session.stop()
    session._segmenter.go.set()
    session.wait()
    assert session.state()["done"] == [0, 1] and not session.state()["running"]


def test_what_goes_wrong_in_propagation_is_in_the_state(session, tmp_path):
    session.draw(0, encode_mask(drawn(1)))
    Image.new("RGB", SIZE[::-1], (99, 0, 0)).save(tmp_path / "frames/f10.png")
    session.propagate(0)
    session.wait()
    assert session.state()["error"] == "propagation ended at frame f10: out of luck"
    assert session.state()["done"] == [0, 1]


@pytest.mark.parametrize(
    ("png", "why"),
    [
        (b"nonsense", "expected a PNG"),
        (encode_mask(np.ones((5, 5))), r"expected a PNG of \(10, 14\), found \(5, 5\)"),
        (encode_mask(drawn(1))[:60], "f2"),
    ],
)
def test_what_is_no_mask_of_the_frame_is_refused_and_changes_nothing(session, png, why):
    with pytest.raises(ValueError, match=why):
        session.draw(0, png)
    assert session.state()["done"] == []


def test_a_frame_without_an_object_starts_nothing(session):
    with pytest.raises(ValueError, match="f2 shows no object yet"):
        session.propagate(0)


def test_a_folder_of_something_else_is_refused(frames, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f2.png").write_bytes(encode_mask(drawn(1)))
    with pytest.raises(FileExistsError, match="out is not empty"):
        Session(Stub(), frames, tmp_path / "out")


def test_a_real_system_propagates_what_its_segmenter_says(tiny_feelvos, clip, tmp_path):
    (tmp_path / "frames").mkdir()
    for t in range(3):
        Image.fromarray(clip[0][t]).save(tmp_path / f"frames/{t}.png")
    with quick_compilation():
        source = open_frames(tmp_path / "frames")
        session = Session(VideoSegmenter(*tiny_feelvos), source, tmp_path / "out")
        session.draw(0, encode_mask(clip[1][0]))
        session.propagate(0)
        session.wait()
        segmenter = VideoSegmenter(*tiny_feelvos)
        segmenter.step(clip[0][0], clip[1][0])
        for t in (1, 2):
            np.testing.assert_array_equal(session.mask(t), segmenter.step(clip[0][t]))


@pytest.fixture
def ask(session):
    """Requests to a running server: method, path after the token, body, headers that replace."""
    with AnnotationServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        host = f"127.0.0.1:{server.port}"

        def call(method, path, body=None, token=server.token, **headers):
            connection = http.client.HTTPConnection(host, timeout=20)
            sent = {"Host": host, "Origin": f"http://{host}", **headers}
            sent = {name.replace("_", "-"): value for name, value in sent.items() if value}
            connection.request(method, f"/{token}/{path}", body, sent)
            answer = connection.getresponse()
            return SimpleNamespace(status=answer.status, body=answer.read(), head=answer.headers)

        call.server = server
        yield call
        server.shutdown()


def test_a_page_paints_propagates_and_asks_how_far_it_is(ask, session):
    assert ask("GET", "", Origin=None).body.startswith(b"<!doctype html>")
    assert ask("GET", "page.js").head["Content-Type"].startswith("text/javascript")
    assert len(ask("GET", "palette").body) == 768
    assert ask("GET", "frame/0").body[:2] == b"\xff\xd8"
    said = json.loads(ask("PUT", "mask/0", encode_mask(drawn(3))).body)
    assert said["by_hand"] == [0] and said["size"] == list(SIZE)
    assert ask("GET", "mask/0").body == drawn(3).tobytes()
    assert ask("POST", "propagate/0").status == 200
    session.wait()
    assert json.loads(ask("GET", "state").body)["done"] == [0, 1, 2, 3, 4]
    assert ask("POST", "release/0").status == ask("POST", "stop").status == 200


@pytest.mark.parametrize(
    ("method", "path", "changes", "status"),
    [
        ("GET", "state", {"token": "x"}, 403),
        ("GET", "", {"token": ""}, 403),
        ("GET", "state", {"Host": "evil.example"}, 403),
        ("GET", "state", {"Origin": "http://evil.example"}, 403),
        ("POST", "stop", {"Origin": None}, 403),
        ("PUT", "mask/0", {"Origin": "null"}, 403),
        ("GET", "frame/5", {}, 404),
        ("GET", "frame/-1", {}, 404),
        ("GET", "frame/../../etc/passwd", {}, 404),
        ("GET", "mask/f2", {}, 404),
        ("GET", "nothing", {}, 404),
        ("GET", "propagate/0", {}, 404),
        ("DELETE", "mask/0", {"Origin": None}, 403),
        ("PATCH", "mask/0", {}, 501),
        ("POST", "propagate/0", {}, 422),
        ("PUT", "mask/0", {"body": b"no mask"}, 422),
        ("PUT", "mask/0", {"body": b"x", "Content_Length": "99999999"}, 413),
        ("PUT", "mask/0", {"body": b"x", "Content_Length": "-1"}, 411),
    ],
)
def test_whatever_is_not_the_page_is_refused(ask, session, method, path, changes, status):
    answer = ask(method, path, **changes)
    assert answer.status == status
    assert session.state()["done"] == []
    if status != 501:
        assert json.loads(answer.body)["error"]


def test_no_other_machine_can_connect(ask):
    assert ask.server.server_address[0] == "127.0.0.1"
    assert "default-src 'self'" in ask("GET", "").head["Content-Security-Policy"]


def test_a_mask_drawn_during_propagation_is_a_conflict(ask, session):
    ask("PUT", "mask/0", encode_mask(drawn(3)))
    session._segmenter.go.clear()
    ask("POST", "propagate/0")
    assert ask("PUT", "mask/0", encode_mask(drawn(4))).status == 409
    ask("POST", "stop")
    session._segmenter.go.set()
    session.wait()


def test_a_port_that_is_taken_is_told(ask, session):
    port = ask.server.port
    with pytest.raises(OSError, match=f"--port {port}: Address already in use; leave it out"):
        command._listening(session, port)


def test_frames_of_a_video_file_can_be_read_alone(tmp_path):
    source = open_frames(write_video(tmp_path / "v.avi", frames=4))
    wanted = [frame for _, frame in source]
    (tmp_path / "scratch").mkdir()
    frames = command.unpacked(source, tmp_path / "scratch")
    assert frames.stems == ["00000", "00001", "00002", "00003"]
    np.testing.assert_array_equal(frames.pick([2])[0], wanted[2])


def test_the_command_line_is_checked(frames, tmp_path, monkeypatch):
    with pytest.raises(flags.Error, match="missing --checkpoint, --out"):
        command.parse(["annotate", "--frames=f"])
    with pytest.raises(flags.Error, match="--port: expected 0..65535"):
        command.parse(["a", "--frames=f", "--checkpoint=c", "--out=o", "--port=70000"])
    argv = ["annotate", "--checkpoint=c", f"--frames={tmp_path}/frames"]
    with pytest.raises(SystemExit, match="--out .* would be overwritten"):
        command.main([*argv, f"--out={tmp_path}/frames"])
    config = {"model": {"name": "mask_rcnn"}}
    monkeypatch.setattr(command, "load_variables", lambda checkpoint, config_: ({}, config))
    with pytest.raises(SystemExit, match="error: mask_rcnn takes no masks"):
        command.main([*argv, f"--out={tmp_path}/out"])
