"""What a check of a data folder finds: counts, and each kind of problem with its first message."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vos_jax.data.folders import some


@dataclass
class Findings:
    """The counts of what is there, and what is wrong.

    path: what was checked. layout: how it was recognised, "" if not. splits: sequences of each list
    or split. sequences, frames, masks: their numbers; masks of instances count once per frame and
    object. objects: of each sequence. sizes: sequences of each (H, W). problems: kind -> its
    messages' number and the first of them; remarks: the same of what is worth knowing, but right.
    """

    path: str
    layout: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    masks: int = 0
    objects: list[int] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    remarks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def problem(self, kind: str, message: str, count: int = 1) -> None:
        """Counts a problem; the first message of a kind is the one that is shown."""
        _count(self.problems, kind, message, count)

    def remark(self, kind: str, message: str, count: int = 1) -> None:
        """Counts what is no problem."""
        _count(self.remarks, kind, message, count)

    def refused(self, error: Exception) -> None:
        """Counts what a reader of vos_jax.data refuses."""
        message = str(error)
        self.problem(kind_of(message), message)

    @property
    def sequences(self) -> int:
        return len(self.objects)

    def first_problem(self) -> str:
        """The message of the first kind of problem, "" where nothing is wrong."""
        return next((message for _, message in self.problems.values()), "")

    def counts(self) -> str:
        """What is there, in a line."""
        of = f" ({', '.join(f'{k} {n}' for k, n in self.splits.items())})" if self.splits else ""
        objects = f"{sum(self.objects)} objects"
        if self.objects and max(self.objects) != min(self.objects):
            objects += f" ({min(self.objects)} to {max(self.objects)} in a sequence)"
        sizes = [f"{h}x{w}" for (h, w), _ in self.sizes.most_common()]
        return (
            f"{self.layout or 'no known layout'}: {self.sequences} sequences{of},"
            f" {self.frames} frames, {self.masks} masks, {objects}, sizes {some(sizes)}"
            " (height x width)"
        )

    def report(self) -> str:
        """The counts, and below them every kind of problem with its first message."""
        lines = [f"{self.path}: {self.counts()}"]
        for title, kinds in (("", self.problems), ("remark: ", self.remarks)):
            for kind, (count, message) in kinds.items():
                first = ", the first" if count > 1 else ""
                lines.append(f"  {title}{count} x {kind}{first}:\n    {message}")
        return "\n".join(lines)


def _count(kinds: dict[str, tuple[int, str]], kind: str, message: str, count: int) -> None:
    before, first = kinds.get(kind, (0, message))
    kinds[kind] = before + count, first


UNREADABLE = "file that cannot be read"

# What the readers say -> the kind of problem it is; the first that fits.
KINDS: Sequence[tuple[str, str]] = (
    ("clean object ids", "smoothed or compressed mask"),
    ("partly transparent", "smoothed or compressed mask"),
    ("a JPEG, whose compression", "smoothed or compressed mask"),
    ("a soft map", "smoothed or compressed mask"),
    ("in a mask of more than 8 bits", "object id out of range"),
    ("holds only 0 and 255", "mask of 0 and 255 alone"),
    ("colours of the DAVIS palette", "mask in colours that are no ids"),
    ("palette contradicts", "mask with a palette of other ids"),
    ("expected a saliency map", "saliency map without object"),
    ("but its frame is", "mask of another size than its frame"),
    ("its annotation is for", "mask of another size than its frame"),
    ("has masks of sizes", "mask of another size than its frame"),
    ("the mask is of size", "mask of another size than its frame"),
    ("does not tell whether it lies", "mask of a turned frame"),
    ("pictures of this kind", "picture of a kind that is not read"),
    ("one image per frame", "two files for one frame"),
    ("no such", "missing file or folder"),
    ("have no image", "missing file or folder"),
    ("cannot be read", UNREADABLE),
    ("cut off", UNREADABLE),
    ("damaged", UNREADABLE),
    ("the file is empty", UNREADABLE),
    ("not a readable JSON file", UNREADABLE),
)


def kind_of(message: str) -> str:
    """The kind of problem that a reader's message tells."""
    return next((kind for words, kind in KINDS if words in message), "refused by its reader")
