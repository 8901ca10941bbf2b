"""What a command tells beside its results: lines and progress bars on stderr, none if quiet."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

_quiet = False


@contextlib.contextmanager
def quiet(asked: bool = True) -> Iterator[None]:
    """In here, `say`, `note` and `progress_bar` show nothing where `asked` is true."""
    global _quiet
    before, _quiet = _quiet, _quiet or asked
    try:
        yield
    finally:
        _quiet = before


def say(text: str) -> None:
    """Print a line on stderr; a progress bar that is drawn there is not torn."""
    if not _quiet:
        tqdm.write(text, file=sys.stderr)


def note(text: str) -> None:
    """`say` what is no error, but worth knowing."""
    say(f"note: {text}")


def progress_bar(items: Iterable | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """A progress bar with the time that is left, on stderr and only where that is a terminal.

    shown: False on all but one of several processes. options: of tqdm, such as total, desc, unit.
    """
    return tqdm(items, disable=None if shown and not _quiet else True, **options)
