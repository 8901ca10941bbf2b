"""Tiny data sets in the official folder layouts, made in a temporary folder."""

import json

import cv2
import numpy as np

from vos_jax.data.masks import write_mask

SIZE = (48, 64)


def frame(seed: int, size=SIZE) -> np.ndarray:
    """A smooth random RGB picture."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3))
    return np.clip(cv2.resize(coarse, size[::-1]), 0, 255).astype(np.uint8)


def labels(t: int, ids=(1, 2), size=SIZE) -> np.ndarray:
    """One rectangle per id, side by side, moving down with t."""
    out = np.zeros(size, np.uint8)
    width = size[1] // (2 * len(ids))
    for place, key in enumerate(ids):
        left = 2 * place * width + 2
        out[4 + t : 4 + t + size[0] // 2, left : left + width] = key
    return out


def write_image(path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def davis_tree(root, names=("bear", "dog"), length=5, split="train", ids=(1, 2), masks=None):
    """DAVIS 2017 layout; masks: number of annotated frames (default all)."""
    for number, name in enumerate(names):
        folder = root / "Annotations/480p" / name
        folder.mkdir(parents=True)
        for t in range(length):
            write_image(root / f"JPEGImages/480p/{name}/{t:05d}.jpg", frame(10 * number + t))
            if masks is None or t < masks:
                write_mask(folder / f"{t:05d}.png", labels(t, ids))
    listing = root / "ImageSets/2017" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(names) + "\n")
    return root


def youtube_tree(root, split="train", length=11):
    """One video: objects 2 and 7 from frame 0 and from frame 5, every 5th frame annotated."""
    name, stems = "0a1b", [f"{t:05d}" for t in range(length)]
    for t, stem in enumerate(stems):
        write_image(root / split / "JPEGImages" / name / f"{stem}.jpg", frame(t))
    (root / split / "Annotations" / name).mkdir(parents=True)
    for t in range(0, length, 5):
        ids = (2, 7) if t >= 5 else (2,)
        write_mask(root / split / "Annotations" / name / f"{t:05d}.png", labels(t % 7, ids))
    listed = {2: ["00000", "00005", "00010"], 7: ["00005", "00010"]}
    categories = {2: "penguin", 7: "dog"}
    objects = {str(k): {"category": categories[k], "frames": f} for k, f in listed.items()}
    (root / split / "meta.json").write_text(json.dumps({"videos": {name: {"objects": objects}}}))
    return root
