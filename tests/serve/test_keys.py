"""Are keys read from where the config says, and known by nothing but their hash?"""

import hashlib
from pathlib import Path

import pytest

from unimir.serve.keys import Keys


def line(key: str, tenant: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()} {tenant}"


def test_a_file_and_a_variable_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["# ours", f"{line('one', 'shop')}  # the shop", "", line("two", "a tenant of words"), line("three", "")]
    text = "\n".join(lines)
    (tmp_path / "keys").write_text(text)
    monkeypatch.setenv("SEARCH_KEYS", text)
    for where in (str(tmp_path / "keys"), "env:SEARCH_KEYS"):
        keys = Keys.found(where)
        tenants = [keys.tenant_of(key) for key in ("one", "two", "three", "four", "", None, "\udcff")]
        assert tenants == ["shop", "a tenant of words", "", None, None, None, None]


def test_without_keys_everyone_is_the_same_tenant() -> None:
    assert Keys.found(None).tenant_of(None) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        ("secret shop\n", "line 1: expected a SHA-256"),
        (f"\n{'0' * 63} x", "line 2"),
        (f"{hashlib.sha256(b'').hexdigest()} shop", "line 1: the SHA-256 of nothing; was the variable empty"),
    ],
)
def test_what_is_no_list_of_keys_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_KEYS", text)
    with pytest.raises(ValueError, match=message) as refused:
        Keys.found("env:SEARCH_KEYS")
    assert "secret" not in str(refused.value)
    with pytest.raises(ValueError, match="no variable NOWHERE"):
        Keys.found("env:NOWHERE")
    with pytest.raises(ValueError, match="no file nowhere"):
        Keys.found("nowhere")
