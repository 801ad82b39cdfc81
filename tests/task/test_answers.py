"""Whether a written answer equals the known one."""

import pytest

from treepo.task.answers import is_right


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (r"so \boxed{72}", "72", True),
        (r"so \boxed{72.0}", "72", True),
        (r"so \boxed{1,234}", "1234", True),
        (r"so \boxed{1234}", "1,234", True),
        (r"so \boxed{\$18}", "18", True),
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"so \boxed{\dfrac{1}{2}}", r"\frac12", True),
        (r"so \boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3, \frac{\pi}{2})", True),
        (r"so \boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"so \boxed{1,2}", "12", False),
        (r"so \boxed{12,34}", "1234", False),
        (r"so \boxed{(1,2)}", "(12)", False),
        (r"so \boxed{-1,234,567.5}", "-1234567.5", True),
        ("so \\boxed{" + "9" * 10_000 + "}", "72", False),
        (r"so \boxed{73}", "72", False),
        (r"so \boxed{720}", "72", False),
        (r"so \boxed{}", "72", False),
        (r"so 72", "72", False),
        (r"so \boxed{72", "72", False),
        (r"\boxed{72} or rather \boxed{71}", "72", False),
        (r"\boxed{71} or rather \boxed{72}", "72", True),
    ],
)
def test_answers(response, answer, right):
    assert is_right(response, answer) is right
