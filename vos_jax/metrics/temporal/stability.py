"""Temporal stability T of DAVIS 2016: how much an object's outline changes from frame to frame.

F. Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation,
CVPR 2016, section 4, with the numbers of its released code. The outlines of two successive masks
are matched point by point through their shape contexts (S. Belongie et al., PAMI 2002); T is the
mean cost of the matched points, times 5. Lower is better. Only the segmentation is looked at: a
wrong mask that never changes has T = 0.

Everything here is host-side numpy in float64 by necessity. Distances and angles of outline points
fall exactly on the borders of histogram bins, and several matchings may cost the same: single
precision, or another order of additions, gives another number.

The released benchmark takes T over frames 1..T-2 and only of sequences without occlusion.
"""

import numpy as np

from vos_jax.metrics.temporal.contours import longest_contour, upsample

SCALE = 5.0  # official factor on the mean matching cost
ANGLE_BINS = 12
RADIUS_EDGES = np.logspace(np.log10(1 / 8), np.log10(2), 5)  # in units of the mean distance

_EPS = 2.2204e-16  # official, keeps empty bins from dividing by zero
BLOCK_BYTES = 1 << 22  # of one temporary of the cost matrix; fits into a processor's cache


class TemporalStability:
    """T of one object, mask by mask; what it holds does not grow with the masks seen.

    Example: `stability = TemporalStability()`, `stability.add(mask)` for successive masks, then
    `np.nanmean(stability.values())`.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None
        self._previous: np.ndarray | None = None
        self._values: list[float] = []

    def add(self, mask: np.ndarray) -> None:
        """The next mask [H, W], non-zero inside. Raises ValueError when the size has changed."""
        shape = np.shape(mask)
        if self._shape not in (None, shape):
            raise ValueError(
                f"mask {len(self._values) + 1} has shape {shape}, those before it {self._shape}: "
                "write all masks of a sequence at one size"
            )
        context = outline_context(mask)
        if self._shape is not None:
            self._values.append(SCALE * matching_cost(self._previous, context))
        self._shape, self._previous = shape, context

    def values(self) -> np.ndarray:
        """float64 [n - 1] for n masks: T of each pair, NaN where one of the two has no polygon."""
        return np.array(self._values, np.float64)


def pair_instability(previous: np.ndarray, following: np.ndarray) -> float:
    """Mean matching cost of two masks [H, W], >= 0, before the factor 5; NaN without a polygon."""
    return matching_cost(outline_context(previous), outline_context(following))


def outline_context(mask: np.ndarray) -> np.ndarray | None:
    """Shape contexts int [n, 60] along the longest outline of a mask; None without a polygon."""
    contour = longest_contour(mask)
    return None if contour is None else shape_context(upsample(contour))


def matching_cost(contexts: np.ndarray | None, others: np.ndarray | None) -> float:
    """Mean cost of matching two outlines given by shape contexts; NaN if one is None."""
    if contexts is None or others is None:
        return float("nan")
    cost = context_distances(contexts, others)
    pairs, _ = match(cost)
    return float(np.mean(cost[pairs[:, 0], pairs[:, 1]]))


def shape_context(points: np.ndarray) -> np.ndarray:
    """Histograms int [n, 60] of where the other points lie, seen from each of the points [n, 2].

    Five rings by distance, the outermost first, relative to the mean distance of all points, each
    with 12 sectors of direction. Points beyond the last ring are not counted, the point itself is.
    """
    x, y = np.asarray(points, np.float64).T
    dx, dy = x - x[:, None], y - y[:, None]
    radius = np.sqrt(dx**2 + dy**2)
    radius /= radius.mean()
    ring = sum((radius < edge).astype(np.int64) for edge in RADIUS_EDGES) - 1
    turn = 2 * np.pi
    angle = np.fmod(np.fmod(np.arctan2(dy, dx), turn) + turn, turn)
    sector = np.floor(angle / (turn / ANGLE_BINS)).astype(np.int64)
    bins = ANGLE_BINS * len(RADIUS_EDGES)
    index = np.arange(len(x))[:, None] * bins + ring * ANGLE_BINS + sector
    counts = np.bincount(index[ring >= 0], minlength=len(x) * bins)
    return counts.reshape(len(x), bins)


def context_distances(contexts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Chi-squared distances float64 [n1, n2] in [0, 1] of histograms [n1, 60] and [n2, 60].

    c_ij = 1/2 sum_k (a_ik - b_jk)^2 / (a_ik + b_jk), each histogram divided by its sum. Made in
    blocks of rows, so that temporaries stay near BLOCK_BYTES.
    """
    a = contexts / (contexts.sum(axis=1, keepdims=True) + _EPS)
    b = others / (others.sum(axis=1, keepdims=True) + _EPS)
    cost = np.empty((len(a), len(b)))
    rows = max(BLOCK_BYTES // b.nbytes, 1)
    for start in range(0, len(a), rows):
        block = a[start : start + rows, None]
        ratio = (block - b) ** 2 / (block + b + _EPS)
        cost[start : start + rows] = 0.5 * ratio.sum(axis=2)
    return cost


def match(cost: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """One-to-one pairs of points of two closed outlines, from their cost matrix [n1, n2].

    Both outlines are walked along together on the cheapest monotone path. A first path finds the
    cheapest pair (a, b); the second starts just behind it, where the outlines are best aligned.

    Returns:
        pairs int [m, 2], ascending in the second column, and (a, b).
    """
    path = shortest_path(cost)[:-1]
    a, b = path[np.argmin(cost[path[:, 0], path[:, 1]])].tolist()
    path = shortest_path(np.roll(cost, (-(a + 1), -(b + 1)), axis=(0, 1)))
    pairs = (path + (a + 1, b + 1)) % cost.shape
    for axis in (0, 1):
        pairs = _cheapest_of_each(pairs, cost, axis)
    return pairs, (a, b)


def _cheapest_of_each(pairs: np.ndarray, cost: np.ndarray, axis: int) -> np.ndarray:
    """For every point of one outline its cheapest pair, the first of several."""
    order = np.lexsort((cost[pairs[:, 0], pairs[:, 1]], pairs[:, axis]))
    _, first = np.unique(pairs[order, axis], return_index=True)
    return pairs[order[first]]


def shortest_path(cost: np.ndarray) -> np.ndarray:
    """Cheapest path over a matrix [n1, n2] by steps (0, 1), (1, 0), (1, 1); costs >= 0.

    A path costs the sum of its nodes without the first. Returns its nodes int [m, 2] from the last,
    (n1 - 1, n2 - 1), to (0, 0).

    Among equally cheap paths the official one is that of Dijkstra's algorithm with Boost's heap.
    It takes as the predecessor of a node the nearest one, the first to leave the heap. Only where
    two are equally near does the heap matter, and only then is it worked through.
    """
    distance = _path_costs(cost)
    i, j = cost.shape
    path = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        before = (
            (distance.item(i, j - 1), i, j - 1),
            (distance.item(i - 1, j), i - 1, j),
            (distance.item(i - 1, j - 1), i - 1, j - 1),
        )
        nearest, i, j = min(before)
        if sum(d == nearest for d, _, _ in before) > 1:
            return _heap_path(cost)
        path.append((i - 1, j - 1))
    return np.array(path)


def _path_costs(cost: np.ndarray) -> np.ndarray:
    """Cost of the cheapest path to each node, [n1 + 1, n2 + 1] with a margin of inf above and left.

    Nodes of one anti-diagonal do not depend on each other and are made at once.
    """
    n1, n2 = cost.shape
    distance = np.full((n1 + 1, n2 + 1), np.inf)
    distance[1, 1] = 0
    flat, entering = distance.ravel(), np.pad(cost, ((1, 0), (1, 0))).ravel()
    for k in range(1, n1 + n2 - 1):
        top, bottom = max(0, k - n2 + 1), min(k, n1 - 1)
        node = (top + 1) * (n2 + 1) + k - top + 1
        # One row down and one column left is n2 further on.
        here, left, above, diagonal = (
            slice(at, at + (bottom - top) * n2 + 1, n2)
            for at in (node, node - 1, node - n2 - 1, node - n2 - 2)
        )
        nearest = np.minimum(np.minimum(flat[left], flat[above]), flat[diagonal])
        flat[here] = nearest + entering[here]
    return distance


def _heap_path(cost: np.ndarray) -> np.ndarray:
    """`shortest_path` by Dijkstra's algorithm with an indexed 4-ary heap that sifts as Boost's.

    Nodes are integers on a grid with one more row and column, whose distance of -inf keeps the
    search inside.
    """
    n1, n2 = cost.shape
    width = n2 + 1
    entering = np.pad(cost, ((0, 1), (0, 1))).ravel().tolist()
    start = np.full((n1 + 1, width), -np.inf)
    start[:n1, :n2] = np.inf
    start[0, 0] = 0
    distance = start.ravel().tolist()
    previous = [0] * len(distance)
    place = [0] * len(distance)
    heap = [0]
    target = (n1 - 1) * width + n2 - 1
    infinity = float("inf")
    while heap[0] != target:
        node = _pop(heap, distance, place)
        reached = distance[node]
        for after in (node + 1, node + width, node + width + 1):
            d, known = reached + entering[after], distance[after]
            if d < known:
                distance[after] = d
                previous[after] = node
                if known == infinity:
                    at = len(heap)
                    heap.append(after)
                else:
                    at = place[after]
                while at:
                    parent = (at - 1) >> 2
                    above = heap[parent]
                    if d >= distance[above]:
                        break
                    heap[at] = above
                    place[above] = at
                    at = parent
                heap[at] = after
                place[after] = at
    path = [target]
    while path[-1]:
        path.append(previous[path[-1]])
    return np.stack(np.divmod(path, width), axis=1)


def _pop(heap: list[int], distance: list[float], place: list[int]) -> int:
    """Take the nearest node off a non-empty heap and restore its order."""
    first, moved = heap[0], heap.pop()
    size = len(heap)
    if not size:
        return first
    d = distance[moved]
    at, child = 0, 1
    while child < size:
        best, nearest = child, distance[heap[child]]
        for other in range(child + 1, min(child + 4, size)):
            if distance[heap[other]] < nearest:
                best, nearest = other, distance[heap[other]]
        if nearest >= d:
            break
        node = heap[best]
        heap[at] = node
        place[node] = at
        at = best
        child = 4 * at + 1
    heap[at] = moved
    place[moved] = at
    return first
