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


def write_video(path, frames: int, fps: float = 25):
    """A video file of `frame(0)`, `frame(1)`, ..., in a format that every OpenCV writes."""
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), codec, fps, SIZE[::-1])
    for t in range(frames):
        writer.write(np.ascontiguousarray(frame(t)[..., ::-1]))
    writer.release()
    return path


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


def fbms_tree(root, name="cats01", length=6, annotated=(0, 3, 5), split="Testset", values=None):
    """A sequence in FBMS-59 layout; labels 1 and 2 are two regions, magenta and cyan.

    values: 24-bit colours of the regions in Def.dat, None: no Def.dat.
    """
    folder = root / split / name
    for t in range(length):
        write_image(folder / f"{name}_{t + 1:04d}.jpg", frame(t))
    for t in annotated:
        write_image(folder / f"GroundTruth/{name}_{t + 1:04d}_gt.ppm", region_colours(labels(t)))
        confidence = np.full(SIZE, 200, np.uint8)
        assert cv2.imwrite(str(folder / f"GroundTruth/{name}_{t + 1:04d}_gt.pgm"), confidence)
        write_image(folder / f"GroundTruth/{name}_{t + 1:04d}_PROB_gt.ppm", frame(t))
    if values is not None:
        files = [f"{name}_{t + 1:04d}_gt.ppm" for t in annotated]
        write_definition(folder / f"GroundTruth/{name}Def.dat", values, files)
    return root


def region_colours(ids: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] of labels 0, 1, 2: white, magenta, cyan."""
    return np.array([[255, 255, 255], [255, 0, 255], [0, 255, 255]], np.uint8)[ids]


def write_definition(path, values, files):
    """A ground truth definition file of FBMS-59."""
    lines = ["Ground truth definition file; do not change!", "", "Total number of regions:"]
    lines.append(str(len(values)))
    for region, value in enumerate(values):
        lines += [f"Scale of region {region}:", str(value)]
    lines += ["", "Confusion penality matrix", *["0 " * len(values)] * len(values), ""]
    lines += ["Total number of frames in this shot:", "100"]
    lines += ["Total number of labeled frames for this shot:", str(len(files))]
    for number, file in enumerate(files):
        lines += ["Frame number:", str(number), "File name:", file, "Input file name:", "x.ppm"]
    path.write_text("\n".join(lines) + "\n")


def youtube_objects_tree(root, shots, length=21, step=10, scale=1):
    """YouTube-Objects layout. shots: (category, id, shot); frames are `scale` x the labels."""
    size = (SIZE[0] * scale, SIZE[1] * scale)
    for category, number, shot in shots:
        folder = root / category / "data" / number / "shots" / shot
        for t in range(length):
            write_image(folder / f"images/frame{t + 1:04d}.jpg", frame(t, size))
        (folder / "labels").mkdir(parents=True)
        for t in range(0, length, step):
            mask = 255 * labels(t // step, (1,))
            assert cv2.imwrite(str(folder / f"labels/{t + 1:05d}.jpg"), mask)
    return root


def segtrack_tree(root, length=4):
    """SegTrack v2 layout: frog with one object, bmx with two that overlap in column 40."""
    for name in ("frog", "bmx"):
        for t in range(length):
            write_image(root / f"JPEGImages/{name}/{name}_{t:05d}.png", frame(t))
    for t in range(length):
        write_binary(root / f"GroundTruth/frog/frog_{t:05d}.png", labels(t, (1,)) == 1)
        for number in (1, 2):
            inside = labels(t) == number
            inside[:, 40] = True
            kind = "bmp" if number == 1 else "png"
            write_binary(root / f"GroundTruth/bmx/{number}/bmx_{t:05d}.{kind}", inside)
    return root


def segtrack_v1_tree(root, length=4):
    """SegTrack v1 layout: girl's masks are numbered from 0, its frames are not."""
    for t in range(length):
        write_image(root / f"girl/5117-8_{70161 + t}.bmp", frame(t))
        write_binary(root / f"girl/ground-truth/{t}.bmp", labels(t, (1,)) == 1)
        write_image(root / f"penguin/penguin_{t:05d}.bmp", frame(t))
        write_binary(root / f"penguin/ground_truth/penguin_{t:05d}.png", labels(t, (1,)) == 1)
    return root


def write_binary(path, inside: np.ndarray) -> None:
    """A black and white colour image."""
    write_image(path, np.repeat(255 * inside[..., None].astype(np.uint8), 3, 2))


def images_tree(root, images="images", masks="masks", count=3):
    """Images with soft saliency maps: 200 and 100 in the two halves of the object."""
    for n in range(count):
        write_image(root / images / f"im{n}.jpg", frame(n))
        soft = (np.array([0, 200, 100], np.uint8))[labels(n)]
        (root / masks).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / masks / f"im{n}.png"), soft)
    return root


def same(one, other) -> bool:
    """Whether two videos hold the same pixels and facts."""
    a, b = one.clip(), other.clip()
    arrays = ("frames", "masks", "ids", "given", "scored", "source_index")
    facts = ("name", "dataset", "frame_names", "categories", "original_size")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in arrays) and all(
        getattr(a, f) == getattr(b, f) for f in facts
    )
