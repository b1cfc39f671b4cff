"""One way to write numbers and long texts."""

import math

import pytest

from kntools.results import display


@pytest.mark.parametrize("exponent", [*range(-12, 9), 27, 300])
@pytest.mark.parametrize("digits", [1.0, 1.2345, 4.999, 9.9996])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_keeps_three_significant_digits(exponent: int, digits: float, sign: int) -> None:
    value = sign * digits * 10.0**exponent
    shown = display.number(value)
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.005) and len(shown) <= 10
    assert display.number(value, "+").lstrip("+-") == shown.lstrip("-") and display.number(value, "+")[0] in "+-"


def test_only_nothing_looks_like_nothing() -> None:
    assert display.number(0.0) == display.number(0.0, "+") == "0"
    assert [display.number(x) for x in (math.nan, math.inf, -math.inf)] == ["nan", "inf", "-inf"]


def test_a_long_text_keeps_both_ends() -> None:
    text = "".join(map(str, range(500)))
    short = display.excerpt(text, 80)
    assert len(short) <= 80 and text.startswith(short[:30]) and text.endswith(short[-30:])
    assert display.excerpt(text[:80], 80) == text[:80]
