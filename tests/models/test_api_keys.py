"""Where an endpoint's keys come from, and which are refused; their use is tested with the endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from trice.errors import InputError
from trice.models.api_keys import api_keys
from trice.models.endpoint import Endpoint

KEYS = ("sk-first-0123456789abcdef", "sk-other-fedcba9876543210")


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRICE_API_KEYS", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert api_keys() == []
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    assert api_keys() == ["one"]
    monkeypatch.setenv("TRICE_API_KEYS", " two, three,")
    assert api_keys() == ["two", "three"]


def test_keys_from_a_file_only_its_user_can_read(tmp_path: Path) -> None:
    file = tmp_path / "my keys"
    file.write_text("\n".join(KEYS) + "\n\n")
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(InputError, match=f"run: chmod 600 '{file}'$"):
            api_keys(file)
    file.chmod(0o600)
    assert api_keys(file) == list(KEYS)
    file.write_text("\n")
    with pytest.raises(InputError, match="contains no key"):
        api_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        api_keys(tmp_path / "none")


def test_a_key_that_cannot_be_meant_is_refused_unseen(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(KEYS[0].encode() + b"\nsk-\xff\xfe-secret-part\n")
    file.chmod(0o600)
    with pytest.raises(InputError, match=r"^key 2 of 2 contains") as caught:
        Endpoint("http://localhost/v1", "m", api_keys(file))
    assert "secret" not in repr(caught.value) + repr(caught.value.__context__)
