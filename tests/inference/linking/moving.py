"""Generated tracks of known identity: boxes of discs, with what a perfect detector would find."""

import numpy as np

from vos_jax.data.rle import boxes, encode
from vos_jax.inference.linking.base import Found
from vos_jax.inference.tracks import link

SIZE = (80, 120)


def disc(centre, radius):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def found_of(masks, classes, features=None, scores=None):
    """A perfect detector's answer for masks bool [D, H, W]."""
    rles = encode(np.asarray(masks, bool).reshape(-1, *SIZE))
    count = len(rles)
    return Found(
        boxes=boxes(rles),
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32) if scores is None else scores,
        classes=np.asarray(classes, int).reshape(count),
        rles=rles,
        size=SIZE,
        features=None if features is None else np.asarray(features, np.float32),
    )


class World:
    """Discs on paths; each: class, radius, path(t) -> centre or None where it is away, feature.

    frames: uint8 [T, H, W, 3] with a texture of its own on every disc, for optical flow.
    """

    def __init__(self, objects, frames, shuffle=0):
        self.objects, self.length = objects, frames
        self._rng = np.random.default_rng(shuffle)
        self._textures = np.random.default_rng(7).integers(0, 255, (len(objects) + 1, *SIZE, 3))

    def step(self, t):
        """Frame t, its detections in random order, and their true identities."""
        there = [n for n, one in enumerate(self.objects) if one[2](t) is not None]
        frame = (self._textures[-1] // 4).astype(np.uint8)
        masks = []
        for n in there:
            centre, radius = self.objects[n][2](t), self.objects[n][1]
            masks.append(disc(centre, radius))
            shift = tuple(np.rint(centre).astype(int))
            texture = np.roll(self._textures[n], shift, axis=(0, 1))
            frame[masks[-1]] = texture[masks[-1]]
        order = self._rng.permutation(len(there))
        there, masks = np.array(there, int)[order], [masks[i] for i in order]
        classes = [self.objects[n][0] for n in there]
        features = np.array([one[3] for one in self.objects])[there]
        return frame, found_of(masks, classes, features), there


def straight(start, velocity, first=0, end=1000, away=()):
    """A path: start + velocity t in the frames first <= t < end that are not in `away`."""

    def path(t):
        if not first <= t < end or t in away:
            return None
        return np.array(start) + t * np.array(velocity)

    return path


def identities(linker, world):
    """For each object, the identities that its detections got, in order of time."""
    got = [[] for _ in world.objects]
    for t in range(world.length):
        frame, found, there = world.step(t)
        (linked,) = linker.step(frame, found)
        assert linked.found is found and len(set(linked.ids)) == len(found)
        for n, i in zip(there, linked.ids, strict=True):
            got[n].append(int(i))
    assert linker.finish() == []
    return got


def is_exact(got):
    """One identity an object, no two of one."""
    return all(len(set(ids)) == 1 for ids in got) and len({ids[0] for ids in got}) == len(got)


def tracks_of(linker, world, **options):
    detected = (world.step(t)[:2] for t in range(world.length))
    return link(detected, {"one": linker}, **options)["one"]
