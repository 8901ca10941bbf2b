"""A clip through an STM whose memory lies on 8 devices; test_stm_devices runs this file.

Arguments: an .npz with frames and the masks given with the first and the third of them, and the
.npz that takes the results.
"""

import sys

import jax
import numpy as np

from tests.tiny import quick_compilation, tiny_system
from vos_jax.inference.streaming import VideoSegmenter, compiled
from vos_jax.systems.views import Views


def main(source: str, out: str) -> None:
    arrays = dict(np.load(source))
    model, variables = tiny_system("stm", seed=2)  # see promises.is_steady: 0 is not
    spread = model.clone(memory_devices=8, capacity=8)
    results = {"unspread": stream(model, variables, arrays)[0]}
    results["probabilities"], segmenter = stream(spread, variables, arrays)
    bank = segmenter._memory.bank
    for name, x in {"keys": bank.keys, "values": bank.values}.items():
        results[f"{name}_parts"] = [s.data.size / x.size for s in x.addressable_shards]
        results[f"{name}_places"] = sorted({s.device.id for s in x.addressable_shards})
    results["room"] = bank.number.shape[1]
    results["step"] = compiled(spread)[1]._cache_size()
    views = Views(model, flip=True), Views(spread, flip=True)
    results["views"] = [stream(m, variables, arrays, frames=3)[0] for m in views]
    try:
        VideoSegmenter(model.clone(memory_devices=9), variables)
    except ValueError as error:
        results["error"] = str(error)
    np.savez(out, **results)


def stream(model, variables, arrays, frames=None):
    """Probabilities [T, N+1, H, W] of the clip, and the segmenter after it."""
    segmenter, seen = VideoSegmenter(model, variables, slots=2), []
    given = {0: arrays["first"], 2: arrays["third"]}
    for t, frame in enumerate(arrays["frames"][:frames]):
        segmenter.step(frame, given.get(t))
        channels = segmenter.probabilities()
        seen.append(np.pad(channels, ((0, 3 - len(channels)), (0, 0), (0, 0))))
    return np.stack(seen), segmenter


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    with quick_compilation():
        main(*sys.argv[1:])
