"""The real small models, for the tests that need them."""

from __future__ import annotations

import pytest

from trice.errors import InputError
from trice.models.embedded import GEMMA, SMOLLM2, EmbeddedModel


def _needs(model: EmbeddedModel) -> pytest.MarkDecorator:
    """Skips a test if the model is neither converted nor installed. Tests are offline, so nothing is downloaded."""
    reason = ""
    try:
        model.check()
    except InputError as error:
        reason = str(error)
    return pytest.mark.skipif(bool(reason), reason=reason)


real_model = _needs(GEMMA)
real_chat_model = _needs(SMOLLM2)
