"""Telling the user what is no error."""

import sys

from tqdm import tqdm


def note(text: str) -> None:
    """Print "note: text" on stderr; a progress bar that is drawn there is not torn."""
    tqdm.write(f"note: {text}", file=sys.stderr)
