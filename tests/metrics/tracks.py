"""Generated tracks for the tests: discs that drift, and files of YouTube-VIS made of them."""

import json

import numpy as np

from vos_jax.data.rle import encode


def discs(rng, frames, count, size=(120, 160)):
    """Masks of `count` discs on straight paths, bool [T, N, H, W]."""
    y, x = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform(0.2, 0.8, (count, 2)) * size
    speeds = rng.uniform(-0.02, 0.02, (count, 2)) * size
    radii = rng.uniform(0.06, 0.2, count) * min(size)
    masks = np.zeros((frames, count, *size), bool)
    for t in range(frames):
        for n in range(count):
            cy, cx = centres[n] + t * speeds[n]
            masks[t, n] = (y - cy) ** 2 + (x - cx) ** 2 < radii[n] ** 2
    return masks


def rles_of(masks):
    """RLEs of each track [N][T] of masks bool [T, N, H, W], None where there is no pixel."""
    tracks = [encode(masks[:, n]) for n in range(masks.shape[1])]
    return [
        [rle if masks[t, n].any() else None for t, rle in enumerate(rles)]
        for n, rles in enumerate(tracks)
    ]


def annotation_file(path, videos, size=(120, 160), categories=3, first_id=1):
    """Writes annotations of videos, each a list of (category, rles); returns their content."""
    content = {"categories": [{"id": k, "name": f"c{k}"} for k in range(1, categories + 1)]}
    content["videos"] = [
        {"id": first_id + v, "height": size[0], "width": size[1], "length": len(tracks[0][1])}
        | {"file_names": [f"v{v}/{t:05d}.jpg" for t in range(len(tracks[0][1]))]}
        for v, tracks in enumerate(videos)
    ]
    content["annotations"] = [
        {"id": 10 * v + n + 1, "video_id": first_id + v, "category_id": category, "iscrowd": 0}
        | {"segmentations": rles, "areas": [None if rle is None else 50 for rle in rles]}
        for v, tracks in enumerate(videos)
        for n, (category, rles) in enumerate(tracks)
    ]
    path.write_text(json.dumps(content))
    return content


def results_file(path, videos, first_id=1):
    """Writes results for videos, each a list of (category, rles, score)."""
    content = [
        {"video_id": first_id + v, "category_id": category, "score": score, "segmentations": rles}
        for v, tracks in enumerate(videos)
        for category, rles, score in tracks
    ]
    path.write_text(json.dumps(content))
    return content
