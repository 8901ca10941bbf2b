"""The loop of the exhaustive search; its answers are in test_matching."""

import jax

from vos_jax.ops import global_search
from vos_jax.ops.matching import global_matching


def loop_lengths(jaxpr) -> list[int]:
    """Of all loops of known length, those inside others too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append(equation.params["length"])
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            found += loop_lengths(inner) if hasattr(inner, "eqns") else []
    return found


def test_on_an_accelerator_the_loop_is_as_long_for_any_global_batch(monkeypatch):
    def accelerator(*arguments, cpu, default):
        return default(*arguments)

    monkeypatch.setattr(global_search.lax, "platform_dependent", accelerator)
    monkeypatch.setattr(global_search, "DEVICE_QUERIES_PER_ROW", 50)

    def lengths(batch):
        shapes = (batch, 9, 13, 3), (batch, 71, 3), (batch, 71)
        arguments = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, "ffi", strict=True)]
        trace = jax.make_jaxpr(lambda *pixels: global_matching(*pixels, 4))
        return loop_lengths(trace(*arguments).jaxpr)

    assert 3 in lengths(1)  # 117 queries by 50
    assert lengths(1) == lengths(8) == lengths(64)
