"""What is counted, and how: one `Protocol` for each way of scoring results against annotations.

Which frames count is settled by the data set's reader (`Video.scored`): a protocol says what is
compared in them, how void pixels are treated and how objects are averaged.

Sources: davis2017-evaluation (davis2017, davis2017-unsupervised), fperazzi/davis (davis2016); the
average of YouTube-VOS is that of its papers' tables, its server's code is not public. FBMS,
YouTube-Objects and SegTrack have no official code for J: the conventions are those most papers
follow, and every table states them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from vos_jax.metrics.scores import ObjectScores, dataset_metrics, metric_names
from vos_jax.notes import note

# DAVIS 2016: the sequences without occlusion, in which T is defined (eval_t in its db_info.yml).
STABLE_SEQUENCES = frozenset(
    "blackswan camel car-roundabout car-shadow cows drift-straight kite-surf paragliding-launch"
    " scooter-black soapbox bear boat bus car-turn dance-jump drift-turn elephant flamingo hike"
    " hockey kite-walk mallard-water motocross-bumps rhino stroller surf train".split()
)
TEMPORAL = ("none", "official", "all")
INSTANCES = "instances"  # of images, which are no label maps: evaluating/instances.py


@dataclass(frozen=True)
class Protocol:
    """How results are compared with annotations and averaged.

    measures: of J, F, T and E (see metrics/scores.py). merged: every object pixel is foreground,
    one object per sequence. ignore_void: pixels of id 255 do not count; else they are
    background. proposals: predicted ids carry no meaning and up to this many are matched to the
    objects (0: ids must agree). average: of scores.AVERAGES. stable_only: T is measured in
    STABLE_SEQUENCES alone. seen: names of the seen categories, for average "seen".
    """

    name: str
    measures: tuple[str, ...] = ("J", "F")
    merged: bool = False
    ignore_void: bool = False
    proposals: int = 0
    average: str = "objects"
    stable_only: bool = False
    seen: frozenset[str] | None = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of `metrics`, in order."""
        return metric_names(self.measures, self.average)

    def metrics(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """The numbers a table reports; see `dataset_metrics` for errors."""
        return dataset_metrics(objects, self.average, self.seen)

    def measures_of(self, sequence: str) -> tuple[str, ...]:
        """The measures whose values a sequence gets; the others are NaN there."""
        if self.stable_only and sequence not in STABLE_SEQUENCES:
            return tuple(m for m in self.measures if m != "T")
        return self.measures

    def check_seen(self, categories: Collection[str]) -> None:
        """Compares the names of seen categories with those that a data set has.

        Raises ValueError where none of them occurs; tells the user of those that do not.
        """
        unknown = sorted((self.seen or frozenset()) - set(categories))
        if not unknown or not categories:
            return
        near = get_close_matches(unknown[0].lower(), sorted(categories), 1)
        text = (
            f"{len(unknown)} of {len(self.seen)} seen categories occur in no video: "
            + ", ".join(unknown[:5])
            + (" ..." if len(unknown) > 5 else "")
            + (f"; is {unknown[0]!r} what is called {near[0]!r} there?" if near else "")
        )
        if len(unknown) == len(self.seen):
            known = ", ".join(sorted(categories)[:5])
            raise ValueError(f"{text}; the videos have the categories {known}, written like this")
        note(text)

    @property
    def conventions(self) -> dict[str, str]:
        """What is counted and how, in words; goes into scores.json and under the tables."""
        return {
            "objects": _objects_in_words(self),
            "void": "left out" if self.ignore_void else "background",
            "average": _AVERAGE_IN_WORDS[self.average],
        }


_AVERAGE_IN_WORDS: Mapping[str, str] = {
    "objects": "plain mean over objects",
    "frames": "mean over all frames of all objects",
    "categories": "mean over the categories of the mean over their sequences",
    "seen": "objects of seen and of unseen categories apart, G their mean; other numbers are plain "
    "means over objects",
}

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("davis2016", merged=True),
        Protocol("davis2017"),
        Protocol("davis2017-unsupervised", ignore_void=True, proposals=20),
        Protocol("youtube-vos", average="seen"),
        Protocol("fbms", measures=("J",), merged=True),
        Protocol("youtube-objects", measures=("J",), merged=True, average="categories"),
        Protocol("segtrack", measures=("J", "E")),
    )
}


def get_protocol(
    name: str,
    *,
    average: str = "",
    temporal: str = "none",
    seen: Collection[str] | None = None,
) -> Protocol:
    """The protocol of a data set, with its options.

    average: another one than the usual: "frames" (fbms), "sequences" (youtube-objects,
    segtrack; the objects of a sequence are merged into one). temporal: measure T too (davis2016),
    in the "official" sequences or in "all". seen: names of the seen categories (youtube-vos).
    Raises ValueError for an unknown name or an option that does not go with the protocol.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if average:
        if average not in _OTHER_AVERAGES.get(name, ()):
            known = _OTHER_AVERAGES.get(name, ()) or ("no other than its own",)
            raise ValueError(f"protocol {name} can average over {', '.join(known)}, not {average}")
        merged = average == "sequences"
        average = "objects" if merged else average
        protocol = replace(protocol, average=average, merged=merged or protocol.merged)
    if temporal not in TEMPORAL:
        raise ValueError(f"temporal: expected one of {TEMPORAL}, got {temporal!r}")
    if temporal != "none":
        if name != "davis2016":
            raise ValueError(f"T is a measure of davis2016, not of {name}")
        measures = (*protocol.measures, "T")
        protocol = replace(protocol, measures=measures, stable_only=temporal == "official")
    if seen is not None:
        if protocol.average != "seen":
            raise ValueError(f"seen categories belong to youtube-vos, not to {name}")
        protocol = replace(protocol, seen=frozenset(seen))
    return protocol


_OTHER_AVERAGES = {
    "fbms": ("frames",),
    "youtube-objects": ("sequences",),
    "segtrack": ("sequences",),
}


def _objects_in_words(protocol: Protocol) -> str:
    if protocol.merged:
        return "all objects of a sequence as one"
    if protocol.proposals:
        return f"up to {protocol.proposals} proposals matched to the objects"
    return "by id"
