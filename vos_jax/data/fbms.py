"""FBMS-59, the Freiburg-Berkeley motion segmentation data set, in its official folder layout.

    <root>/{Trainingset,Testset}/<sequence>/<sequence>_0001.jpg
    <root>/{Trainingset,Testset}/<sequence>/GroundTruth/<sequence>_0001_gt.ppm | <sequence>_01.pgm
    <root>/{Trainingset,Testset}/<sequence>/GroundTruth/<sequence>Def.dat

Some frames only have ground truth; a file is of the frame whose name ends in the same number. All
moving objects are one object of id 1, given at the first annotated frame and scored in every
annotated frame, the first and the last included: the convention of the video object segmentation
papers (MATNet issue 30), not that of the data set's own precision and recall.

How an image becomes foreground, and how that is known:
- Def.dat lists the regions by number with the value of their pixels: the grey value in a PGM, red *
  65536 + green * 256 + blue in a PPM. A value that it does not list counts as region 0 (cats04 has
  some). Both from the official MoSegEvalPR.cpp and the reader of achalddave/segment-any-moving.
- Region 0 is the background: white in PPM, black in PGM. Two public loaders go by the number, four
  conversions by the colour (among them antonilo/unsupervised_detection). Where Def.dat has another
  order the two contradict each other, and the sequence is refused.
- A PGM or PPM named *PROB*, and a PGM beside a PPM, are confidences and not read.
- In marple2 and marple7 further regions are parts of the still background: the one conversion by
  number that special-cases them (regions 2 and 4, region 2) and those by grey threshold (objects
  above 0.4 and 0.05 of white) both say so. In the training sequences marple10 and marple13 the
  former also drops region 2, the latter do not; it is kept as an object here.
- Without Def.dat the colour decides, and those two sequences are refused.
- PNG files (the corrected masks of FBMS-3D, own conversions) hold 0 and any other value; 255 beside
  others could be void and is refused.
No copy of the data set was at hand: this was tested on generated data.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.clip import VOID, Objects, Video
from vos_jax.data.folders import (
    by_number,
    frames_of,
    one_object,
    read_at,
    require_folders,
    some,
    subfolders,
)
from vos_jax.data.frames import read_image
from vos_jax.data.image_file import load, open_image, read_bytes
from vos_jax.data.masks import read_mask
from vos_jax.data.packed import data_folder

SPLITS = {"train": "Trainingset", "test": "Testset"}
KINDS = (".ppm", ".pgm", ".png")  # of ground truth; the first that a folder holds is read
STILL = {"marple2": (2, 4), "marple7": (2,)}  # regions that are background beside region 0
WHITE = 0xFFFFFF


@dataclass(frozen=True)
class Regions:
    """What Def.dat says: pixel values of the background's and of the objects' regions."""

    background: tuple[int, ...]
    objects: tuple[int, ...]


def open_fbms(dir: str, split: str) -> list[Video]:
    """The sequences of split "train" or "test", sorted by name; no pixel is read here.

    Raises FileNotFoundError for a missing folder, frame or ground truth file; ValueError for an
    unknown split, a Def.dat that is not one, or regions whose background is in doubt.
    """
    if split not in SPLITS:
        raise ValueError(f"fbms: expected split one of {tuple(SPLITS)}, got {split!r}")
    folder = data_folder(dir)
    root = folder / SPLITS[split]
    require_folders((folder, root), "FBMS-59 has <dir>/Trainingset and <dir>/Testset of sequences")
    sequences = subfolders(root)
    if not sequences:
        raise ValueError(f"{root}: the folder holds no sequence; is the download complete?")
    return [_open_sequence(folder) for folder in sequences]


def read_regions(path, regions: Regions | None = None) -> np.ndarray:
    """Read a ground truth file as uint8 [H, W]: 0 background, 1 any moving object.

    regions: what Def.dat says of the values in a PPM or PGM; None goes by colour.
    Raises FileNotFoundError; ValueError for a file that cannot be read, or whose background is not
    certain.
    """
    path = epath.Path(path)
    if path.suffix.lower() == ".png":
        labels = read_mask(path, binary=True)
        if (labels == VOID).any():
            raise ValueError(
                f"{path}: expected one value for the objects, found 255 beside others, which may be"
                " void or an object; save the mask with 0 and 255 only"
            )
        return labels
    values = _values(path)
    if regions is None:
        background = WHITE if path.suffix.lower() == ".ppm" else 0
        if not (values == background).any():
            raise ValueError(
                f"{path}: expected {'white' if background else 'black'} background, found none, and"
                " there is no Def.dat that says which region is the background; download it"
            )
        return (values != background).astype(np.uint8)
    objects = np.isin(values, regions.objects)
    if not objects.any() and not np.isin(values, regions.background).any():
        raise ValueError(
            f"{path}: none of its values, e.g. {values[0, 0]}, is listed in Def.dat, which has"
            f" {[*regions.background, *regions.objects]}; do the two belong together?"
        )
    return objects.astype(np.uint8)


def _values(path: epath.Path) -> np.ndarray:
    """Integer [H, W]: grey value, or the colour as one number."""
    data = read_bytes(path, "ground truth file")
    image = np.asarray(load(open_image(data, str(path)), str(path)))
    if image.ndim == 2:
        return image
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _open_sequence(folder: epath.Path) -> Video:
    truth = folder / "GroundTruth"
    require_folders((truth,), "a sequence of FBMS-59 holds its frames and GroundTruth")
    frame_files = frames_of(folder)
    mask_files = _ground_truth(truth)
    regions = _regions(truth, folder.name, mask_files)
    numbered, annotations = by_number(frame_files), by_number(mask_files)
    lost = [file.name for number, file in annotations.items() if number not in numbered]
    if lost:
        raise FileNotFoundError(
            f"{folder}: {len(lost)} ground truth files have no frame of the same number:"
            f" {some(lost)}; is the download complete?"
        )
    annotated = {file: annotations.get(number) for number, file in numbered.items()}
    masks = [annotated[file] for file in frame_files]
    load_mask = partial(read_at, partial(read_regions, regions=regions), masks)
    return Video(
        name=folder.name,
        dataset="fbms",
        frame_names=[file.stem for file in frame_files],
        mask_files=[None if file is None else str(file) for file in masks],
        load_frame=partial(read_at, read_image, frame_files),
        load_mask=load_mask,
        describe=partial(_objects, load_mask, [file is not None for file in masks]),
    )


def _objects(load_mask, annotated: list[bool]) -> Objects:
    first = annotated.index(True)
    return one_object(first, np.array(annotated), load_mask(first).shape)


def _ground_truth(folder: epath.Path) -> list[epath.Path]:
    files = [f for f in folder.iterdir() if "PROB" not in f.name and not f.name.startswith(".")]
    for kind in KINDS:
        found = [file for file in files if file.suffix.lower() == kind]
        if found:
            return sorted(found, key=lambda file: file.name)
    raise FileNotFoundError(
        f"{folder}: expected ground truth in {', '.join(KINDS)} files, found none of them; is the"
        " download complete?"
    )


def _regions(folder: epath.Path, sequence: str, masks: list[epath.Path]) -> Regions | None:
    """What Def.dat says; None where it is not needed."""
    kind = masks[0].suffix.lower()
    definitions = sorted(f for f in folder.iterdir() if f.name.endswith("Def.dat"))
    if kind == ".png":
        return None
    if not definitions:
        if sequence in STILL:
            raise FileNotFoundError(
                f"{folder / (sequence + 'Def.dat')}: no such file; it is needed because colour does"
                f" not tell the background regions of {sequence} from its objects"
            )
        return None
    values, names = _read_definition(definitions[0])
    present = {file.name for file in masks}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {definitions[0].name} lists ground truth files that are not there:"
            f" {some(missing)}; is the download complete?"
        )
    still = (0, *(r for r in STILL.get(sequence, ()) if r < len(values)))
    background = tuple(values[r] for r in still)
    objects = tuple(value for r, value in enumerate(values) if r not in still)
    if kind == ".ppm":
        certain = background[0] == WHITE and WHITE not in objects
    else:
        certain = bool(objects) and max(background) < min(objects)
    if not certain:
        raise ValueError(
            f"{definitions[0]}: expected region 0 to be the background,"
            f" {'white' if kind == '.ppm' else 'darker than all others'}, found the values"
            f" {list(values)}; which region is the background is not certain"
        )
    return Regions(background, objects)


def _read_definition(path: epath.Path) -> tuple[list[int], list[str]]:
    """The pixel values of the regions in order, and the names of the ground truth files.

    Every fact stands in the line after its heading.
    """
    lines = [line.strip() for line in path.read_bytes().decode("latin-1").splitlines()]
    after = list(zip(lines, lines[1:], strict=False))
    names = [value for heading, value in after if heading.startswith("File name")]
    try:
        (count,) = (int(v) for heading, v in after if heading.startswith("Total number of regions"))
        values = [int(v) for heading, v in after if heading.startswith("Scale of region")]
        if not 2 <= count == len(values):
            raise ValueError(f"{count} regions with the values {values}")
    except ValueError as error:
        raise ValueError(
            f"{path}: expected the headings 'Total number of regions' and, for each of two regions"
            f" or more, 'Scale of region' with a value in the line after, found {error}"
        ) from error
    return values, names
