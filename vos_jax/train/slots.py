"""Batches with no more object slots than their clips need."""

import contextlib
from collections.abc import Generator, Iterator

from vos_jax.inference.streaming import bucket


def in_buckets(batches: Generator[dict, None, None]) -> Iterator[dict]:
    """The same batches; of the slots as few are left as 1, 2, 4, ... that hold all objects.

    A train step is compiled once for each number of slots, and it computes for every slot, used or
    not. Objects come first, so labels stay as they are. Closing it closes `batches`.
    """
    with contextlib.closing(batches):
        for batch in batches:
            slots = bucket(int(batch["valid"].sum(axis=1).max()))
            yield {**batch, **{key: batch[key][:, :slots] for key in ("valid", "classes")}}
