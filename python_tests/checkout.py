"""What the tests of the `bench` folder share: it is in a checkout, and not in an installed package."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_checkout = pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").exists(), reason="no bench folder next to the tests: not a checkout"
)
