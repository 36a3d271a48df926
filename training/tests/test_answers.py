"""Final answers: the package's own reading and that of the reward file, which must not differ."""

import sys
from typing import Any

import pytest

from stv_train import answers
from test_exchange import reward_file

READINGS = [answers, reward_file()]


@pytest.mark.parametrize("reading", READINGS, ids=["package", "reward file"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{1} or \\boxed{ 3/4 }", "3/4"),
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\sqrt{\frac{1}{2}}} and no 3", r"\sqrt{\frac{1}{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"Step 1: 3 + 4 = 7, so \boxed{\frac{7}{", ""),
        (r"\boxed 7", ""),
        (r"\boxed{4}, so \boxed{\frac{7}{", "4"),
        ("Step 1: 3 + 4 = 7", "7"),
        ("none", ""),
        ("x = −5", "-5"),
        ("The answer is 1,200.", "1200"),
        ("between −1,234,567.5 and", "-1234567.5"),
        ("7 − 12 = −5/2", "-5/2"),
        ("one of 1,2000", "2000"),
        ("a, b: 3, 4", "4"),
        (r"\boxed{1,200}", "1,200"),
    ],
)
def test_final_answer(reading: Any, text: str, answer: str) -> None:
    assert reading.final_answer(text) == answer


@pytest.mark.parametrize("reading", READINGS, ids=["package", "reward file"])
def test_a_fraction_is_a_number_without_math_verify(reading: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    for one, other in (
        (r"\frac{1}{2}", "1/2"),
        (r"$-\dfrac{4}{6}$", "-2/3"),
        ("0.5", r"\tfrac{1}{2}"),
        ("a  b", "a b"),
        ("−5", "-5"),
        ("1,200", "1200"),
    ):
        assert reading.same_answer(one, other), (one, other)
    for one, other in ((r"\frac{1}{2}", "2"), (r"\frac{1}{0}", "0"), ("", "5"), ("1,2", "12")):
        assert not reading.same_answer(one, other), (one, other)


def test_a_boxed_fraction_is_rewarded_as_what_it_is() -> None:
    score = reward_file().compute_score
    assert score("stv/answer", r"so \boxed{\frac{1}{2}}", "1/2") == 1.0
    assert score("stv/answer", r"so \boxed{\frac{1}{2}}", "2") == 0.0
