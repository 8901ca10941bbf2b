"""The frames that annotations are of."""

import pytest

from tests.data.trees import frame, write_image
from tests.importing.runs import FRAMES


@pytest.fixture
def place(tmp_path):
    """A folder with the frames of one video."""
    for t in range(FRAMES):
        write_image(tmp_path / f"frames/{t:05d}.jpg", frame(t))
    return tmp_path
