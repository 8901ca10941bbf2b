"""What a page about an evaluation shows, read from the folder that the evaluation wrote."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from PIL import Image, ImageSequence

from vos_jax.checkpoint_folder import read_json

FRAMES_BYTES = 15_000_000  # of all sequences together; base64 makes 20 MB of it
MOST_FRAMES = 40  # of a sequence
WIDEST = 480  # pixels
QUALITY = 80
MAIN = ("J&F-Mean", "AP", "G-Mean", "J-Mean", "AP50")  # the first that there is ranks sequences
# folders of other methods beside the results
BESIDE = ("floors", "linkers")


def read_contents(results: epath.PathLike) -> dict[str, Any]:
    """Everything a page shows, as JSON has it.

    results: a folder with scores.json, as of an evaluation (results/step_*) or of `score`. The
    overlays, other methods, config.json and manifest.json beside it are shown where they are.
    Raises FileNotFoundError where there are no scores; ValueError where they are none.
    """
    folder = epath.Path(results)
    scores = _scores(folder)
    names = _video_names(folder)
    rows = {names.get(k, k): row for k, row in (scores.get("per_sequence") or {}).items()}
    main = next((name for name in MAIN if name in scores["metrics"]), None)
    frames = dict(_overlays(folder, len(rows)))
    sequences = [
        {"name": name, "metrics": _numbers(found), "frames": frames.pop(name, [])}
        for name, found in rows.items()
    ]
    sequences += [{"name": name, "metrics": {}, "frames": shown} for name, shown in frames.items()]
    sequences.sort(key=lambda row: row["metrics"].get(main, float("inf")))  # worst first
    settings = scores.get("settings", {})
    own = settings.get("linker") or settings.get("method") or "model"
    return {
        "protocol": str(scores.get("protocol", "")),
        "main": main,
        "most_frames": MOST_FRAMES,
        "methods": {own: _numbers(scores["metrics"]), **dict(_beside(folder))},
        "sequences": sequences,
        "groups": {
            name: {key: _numbers(row) for key, row in scores[name].items()}
            for name in ("per_category", "per_class")
            if isinstance(scores.get(name), Mapping)
        },
        "settings": settings,
        **_run(folder),
    }


def _video_names(folder: epath.Path) -> dict[str, str]:
    """Names of videos that scores of tracks call by their numbers."""
    file = folder / "gt.json"
    videos = read_json(file)["videos"] if file.is_file() else []
    return {str(video["id"]): video["file_names"][0].split("/")[0] for video in videos}


def _scores(folder: epath.Path) -> dict[str, Any]:
    path = folder / "scores.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a folder that an evaluation wrote, such as"
            " runs/demo/results/step_1000, or what `score --out` named"
        )
    found = read_json(path)
    if not isinstance(found, Mapping) or not isinstance(found.get("metrics"), Mapping):
        raise ValueError(f"{path}: expected scores with metrics, found something else")
    return dict(found)


def _numbers(found: Any) -> dict[str, float]:
    """Those of a row of scores; what is no number is left out."""
    rows = found.items() if isinstance(found, Mapping) else ()
    return {str(k): v for k, v in rows if isinstance(v, int | float) and not isinstance(v, bool)}


def _beside(folder: epath.Path) -> Iterator[tuple[str, dict[str, float]]]:
    for kind in BESIDE:
        place = folder / kind
        for method in sorted(place.iterdir(), key=lambda p: p.name) if place.is_dir() else ():
            if (method / "scores.json").is_file():
                yield method.name, _numbers(_scores(method)["metrics"])


def _run(folder: epath.Path) -> dict[str, Any]:
    """Config and versions of the run whose workdir holds the folder."""
    for place in list(folder.parents)[:2]:
        if (place / "config.json").is_file() and (place / "manifest.json").is_file():
            manifest = read_json(place / "manifest.json")
            kept = {k: v for k, v in manifest.items() if k not in ("config", "command")}
            return {
                "config": read_json(place / "config.json"),
                "versions": kept,
                "run": f"{place.name}/{folder.parent.name}/{folder.name}",
            }
    return {"config": None, "versions": None, "run": folder.name}


def _overlays(folder: epath.Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """Name of a sequence, and some of the frames of its overlay as data URIs."""
    place = folder / "overlays"
    files = sorted(place.glob("*.gif"), key=lambda p: p.name) if place.is_dir() else []
    share = FRAMES_BYTES // max(len(files), count, 1)
    for file in files:
        yield file.name.removesuffix(".gif"), _frames(file, share)


def _frames(file: epath.Path, share: int) -> list[str]:
    """At most MOST_FRAMES, and as many as `share` bytes hold, evenly over the sequence."""
    with Image.open(io.BytesIO(file.read_bytes())) as animation:
        count = getattr(animation, "n_frames", 1)
        wanted = set(_evenly(count, MOST_FRAMES))
        pictures = [
            _jpeg(frame) for t, frame in enumerate(ImageSequence.Iterator(animation)) if t in wanted
        ]
    largest = max(map(len, pictures))
    pictures = [pictures[t] for t in _evenly(len(pictures), max(share // largest, 1))]
    return ["data:image/jpeg;base64," + base64.b64encode(x).decode() for x in pictures]


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


def _jpeg(frame: Image.Image) -> bytes:
    picture = frame.convert("RGB")
    if picture.width > WIDEST:
        height = max(1, round(picture.height * WIDEST / picture.width))
        picture = picture.resize((WIDEST, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def as_script(contents: Mapping[str, Any]) -> str:
    """JSON that may stand in a <script> element, whatever the names in it are."""
    text = json.dumps(contents, ensure_ascii=False, allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028"}
    for character, escape in {**escapes, "\u2029": "\\u2029"}.items():
        text = text.replace(character, escape)
    return text
