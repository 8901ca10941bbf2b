"""What is asked of the store on which a data set lies."""

from collections import Counter

import numpy as np
import pytest
from etils import epath

from tests.data.trees import davis_tree, frame, labels, write_image, youtube_tree
from vos_jax.data.masks import write_mask
from vos_jax.data.sources import open_sources
from vos_jax.data.youtube_vos import open_youtube_vos
from vos_jax.scoring import score

REQUESTS = ("open", "stat", "exists", "is_file", "is_dir", "iterdir")


def pairs_tree(root):
    for t in range(3):
        write_image(root / f"images/{t}.jpg", frame(t))
        (root / "masks").mkdir(exist_ok=True)
        write_mask(root / f"masks/{t}.png", labels(t))
    return root


TREES = {"davis": davis_tree, "youtube_vos": youtube_tree, "images": pairs_tree}


@pytest.fixture
def requests(monkeypatch):
    """How often each file was asked for, in any way."""
    asked = Counter()
    kind = type(epath.Path("x"))
    for name in REQUESTS:
        plain = getattr(kind, name)

        def counted(self, *args, _plain=plain, **kwargs):
            asked[str(self)] += 1
            return _plain(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, counted)
    return asked


@pytest.mark.parametrize("kind", TREES)
def test_a_clip_asks_for_each_of_its_files_once_and_for_nothing_else(kind, tmp_path, requests):
    entry = {"kind": kind, "dir": str(TREES[kind](tmp_path))}
    entry |= {} if kind == "images" else {"split": "train"}
    (source,) = open_sources({"train": {"s": entry}}, "train")
    video = source.videos[0]
    assert len(video.ids)  # described, once for all clips
    requests.clear()
    chosen = np.flatnonzero(video.annotated)[:2]
    video.clip(chosen)
    files = {video.mask_files[t] for t in chosen}
    assert files <= set(requests) and set(requests.values()) == {1}
    assert len(requests) == 2 * len(chosen)


def test_a_mask_that_is_read_before_its_frame_is_turned_like_it(tmp_path, requests):
    """The frame is asked how it lies once, however many masks are read."""
    entry = {"kind": "davis", "dir": str(davis_tree(tmp_path)), "split": "train"}
    (source,) = open_sources({"train": {"s": entry}}, "train")
    requests.clear()
    for _ in range(3):
        source.videos[0].mask(1)
    frames = [count for file, count in requests.items() if file.endswith(".jpg")]
    assert frames == [1]


@pytest.mark.parametrize("typed", ["gs://bucket/other.json", "lists/other.json", "/lists/a.json"])
def test_another_meta_may_lie_on_a_remote_store_or_beside_who_scores(typed, tmp_path, monkeypatch):
    def asked(path):
        raise ValueError(f"asked for {path}")

    monkeypatch.setattr("vos_jax.data.youtube_vos.read_meta", asked)
    monkeypatch.chdir(tmp_path)
    expected = f"{tmp_path}/{typed}" if typed.startswith("lists") else typed
    root = youtube_tree(tmp_path / "data")
    with pytest.raises(ValueError, match=f"^asked for {expected}$"):
        score("youtube-vos", root, tmp_path, subset="train", meta=typed)
    if not typed.startswith("lists"):  # as an option of a source it is relative to the split
        with pytest.raises(ValueError, match=f"^asked for {expected}$"):
            open_youtube_vos(root, "train", meta=typed)
