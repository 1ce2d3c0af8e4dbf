"""Is a name the value that is meant by it, and no value where another place is meant?"""

import pytest

from unimir.values.names import Names


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Australia", "Austria"),
        ("Nigeria", "Niger"),
        ("Iceland", "Ireland"),
        ("Portland", "Poland"),
        ("North Korea", "South Korea"),
        ("iPhone 14", "iPhone 15"),
        ("size 42", "size 43"),
    ],
)
def test_what_is_another_thing_by_name_is_no_misspelling(value: str, said: str) -> None:
    assert Names([value], {}).find(said) is None
    assert Names([value, said], {}).find(said) == ([said], 1.0)


@pytest.mark.parametrize(
    ("value", "said"),
    [("Australia", "Austrlia"), ("Beijing", "Bejing"), ("iPhone 15", "iphone15"), ("Lisbon", "Lisboa")],
)
def test_misspelt_and_foreign_names_are_found(value: str, said: str) -> None:
    found = Names([value, "Montevideo"], {}).find(said)
    assert found is not None and found[0] == [value] and found[1] > 0.9


def test_a_value_has_all_its_spellings() -> None:
    names = Names(["Berlin", "berlin", "BERLIN", "Bern"], {"Berlin": ["Spree-Athen"]})
    for said in ("Berlin", "berlin", "берлин", "Spree-Athen"):
        assert names.find(said) == (["BERLIN", "Berlin", "berlin"], 1.0)
