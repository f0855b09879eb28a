"""What the tests of the hosts share."""

import pytest

from ..support.scenes import loaded_adapter


@pytest.fixture(scope="module")
def adapter():
    """A small plus adapter for SD1.5."""
    return loaded_adapter("plus")
