"""The programs that accelerators get, on the CPU: lowered for them, or with their branches."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

PLATFORMS = ("cuda", "tpu")


def lowered(function: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, str]:
    """StableHLO of a jitted function for each platform, which this machine need not have."""
    traced = function.trace(*arguments, **options)
    return {name: traced.lower(lowering_platforms=(name,)).as_text() for name in PLATFORMS}


@contextlib.contextmanager
def accelerator_branches() -> Iterator[None]:
    """Programs traced in here hold what GPUs get wherever the code asks for the platform."""

    def default_branch(*arrays: Any, default: Callable[..., Any], **others: Any) -> Any:
        return default(*arrays)

    jax.clear_caches()  # what was traced for the CPU
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", default_branch)
        yield
    jax.clear_caches()
