"""The real small model, for the tests that need it."""

from __future__ import annotations

import importlib.util

import pytest

from trice.models import gemma
from trice.storage.cache import cache_folder

real_model = pytest.mark.skipif(
    importlib.util.find_spec(gemma.WHEELS) is None
    and not (cache_folder() / gemma.NAME / "config.json").is_file(),
    reason="neither the extra 'demo' is installed nor its model converted",
)
