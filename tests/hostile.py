"""What the tests of hostile inputs share: how many there are, and that they are the same ones.

300 in all in the ordinary run; `make soak` tries 5,000.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TESTS = 24  # among which the inputs are shared; counted in test_hostile_input
INPUTS = max(int(os.environ.get("VOS_JAX_HOSTILE_INPUTS", "300")) // TESTS, 1)
REFUSED = (ValueError, OSError)
CHECKS = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
HOSTILE_NAMES = st.sampled_from(["..", ".", "", "/etc", "../x", "a/../../b", "a\0b", "\ud800", "~"])


def hostile(*arguments: Any, **named: Any) -> Callable:
    """A test of so many inputs, the same ones every time, whatever the machine's speed."""

    def decorate(test: Callable) -> Callable:
        limits = settings(
            max_examples=INPUTS,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=CHECKS,
        )
        return limits(given(*arguments, **named)(test))

    return decorate


@contextlib.contextmanager
def refused_by_name(*names: object) -> Iterator[None]:
    """What is refused in here is so in words that name one of these, a file or a flag."""
    try:
        yield
    except REFUSED as error:
        assert any(str(name) in str(error) for name in names), repr(error)
        assert "object at 0x" not in str(error)


def changed(content: Any, place: float, value: Any) -> Any:
    """JSON content of which one part, chosen by 0..1, has another value."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    owner, key = places[int(place * (len(places) - 1))]
    owner[key] = value
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from _places(content[key])
