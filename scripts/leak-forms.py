"""Makes tests/goldens/leak-forms.json: answers with the ways in which a computer algebra system writes them, and sentences of a
tutor around them. Independent of the leak guard's own tests: no form is written by hand, and the sentences know nothing of the guard.

Run: python scripts/leak-forms.py   (needs sympy; the result is committed)
"""

import json
import random
from pathlib import Path

import sympy as sp
from sympy.printing.maple import maple_code

SEED = 20260530
x, y, n, k = sp.symbols("x y n k")
rng = random.Random(SEED)


def answers() -> list[tuple[str, sp.Expr]]:
    """Kind and value. Numbers below 13 are left out: these count and point in any feedback."""
    found: list[tuple[str, sp.Expr]] = []
    for _ in range(12):
        found.append(("integer", sp.Integer(rng.choice([1, 1, -1]) * rng.randint(13, 99_999))))
    for _ in range(12):
        found.append(("fraction", sp.Rational(rng.choice([1, 1, -1]) * rng.randint(1, 60), rng.randint(13, 99))))
    for _ in range(8):
        found.append(("decimal", sp.Rational(rng.randint(1300, 99_999), 10 ** rng.randint(1, 3))))
    for _ in range(10):
        found.append(("root", sp.Rational(rng.randint(2, 9), rng.choice([1, 1, 2, 5])) * sp.sqrt(rng.choice([2, 3, 5, 6, 7, 10, 13]))))
    for _ in range(6):
        found.append(("pi", sp.Rational(rng.randint(2, 40), rng.choice([1, 1, 3, 6])) * sp.pi))
    for _ in range(6):
        found.append(("power", sp.Integer(rng.choice([2, 3, 5, 7])) ** rng.randint(7, 11)))
    for _ in range(10):
        found.append(("polynomial", rng.randint(2, 9) * x**2 + rng.choice([-1, 1]) * rng.randint(2, 9) * x + rng.randint(13, 40)))
    for _ in range(6):
        found.append(("formula", rng.choice([n * (n + rng.randint(2, 5)) / 2, sp.sqrt(x**2 + y**2 + rng.randint(2, 9)), (x + y) ** rng.randint(3, 5) / rng.randint(3, 9), k**2 + rng.randint(13, 30) * k])))
    return found


def forms(value: sp.Expr, kind: str) -> list[str]:
    """Ways of writing that leave the value as it is, to be read as that value without further thought."""
    written = {
        str(value),
        str(value).replace("**", "^").replace("*", " * "),
        sp.latex(value),
        sp.latex(value, fold_short_frac=True),
        sp.latex(value, mul_symbol="dot"),
        sp.latex(value, mul_symbol="times"),
        sp.latex(value).replace("\\frac", "\\dfrac"),
        sp.latex(value).replace(" ", ""),
        maple_code(value),
    }
    if kind in ("integer", "power"):
        number = int(value)
        written |= {f"{number:,}", f"{number:,}".replace(",", " "), f"{number:,}".replace(",", "\\,"), f"{number}.0"}
    if kind == "power":
        ((base, exponent),) = sp.factorint(value).items()
        written |= {f"{base}^{exponent}", f"{base}^{{{exponent}}}", f"{base}**{exponent}"}
    if kind == "fraction":
        written |= {f"{value.p}/{value.q}", f"{value.p * 3}/{value.q * 3}", str(sp.N(value, 6))}
    if kind == "decimal":
        written |= {str(float(value)), f"{float(value)}0", sp.latex(value)}
    if kind in ("root", "pi"):
        written |= {str(sp.N(value, 6)), str(sp.N(value, 5))}
    return sorted(written)


STATING = [
    "The answer is {}.",
    "You should have got {} in the end.",
    "Not quite: the result has to be ${}$.",
    "The correct value is \\({}\\), so look at your second line again.",
    "Final answer: \\boxed{{}}",
    "Your last step is wrong, it gives {} and not what you wrote.",
    "If you carry this through, {} comes out.",
]

# `{answer}` is the answer's own number where it means something else, `{other}` a number of the work, `{small}` a small number
HARMLESS = [
    "Step {small} does not follow from the one before it.",
    "Look at line {small} again: which rule allows you to drop the bracket?",
    "There are {small} mistakes here; the first is the sign in line {small}.",
    "You divided by {other} where you should have multiplied.",
    "The product of {other} and {other2} was worked out wrongly.",
    "Check the units in step {small}; the rest is fine.",
    "In step {small} you wrote {wrong}, but the terms before it do not add up to that.",
    "{wrong} cannot be right, since it does not satisfy the equation that you began with.",
    "Your idea is good. Only the last line, where {other} is taken from both sides, goes wrong.",
    "Why should the expression be divisible by {other}? Say so before you use it.",
    "The exponent in line {small} should be {small}, because the rule adds exponents.",
    "You have shown it for n = {small} only; a proof has to cover every n.",
    "Nothing is wrong with the first {small} lines.",
    "Try a smaller case first, for instance {small} instead of {other}.",
    "This is exercise {answer} on page {small}; the method of the section before it helps.",
    "Line {answer} is not there, you stop before it.",
    "Both sides were multiplied by {other}, which is fine, but the right side lost its minus.",
    "Replace x by {small} in your result and see whether the equation holds.",
]


def main() -> None:
    cases = []
    for kind, value in answers():
        written = forms(value, kind)
        cases.append({"kind": kind, "answer": sp.latex(value), "forms": written})
    harmless = []
    for number in (rng.randint(13, 99_999) for _ in range(25)):
        for template in HARMLESS:
            others = [rng.randint(13, 9999) for _ in range(3)]
            if number in others:
                continue
            small = [rng.randint(2, 9) for _ in range(2)]
            text = template.replace("{small}", str(small[0]), 1).replace("{small}", str(small[1]))
            text = text.format(answer=number, other=others[0], other2=others[1], wrong=others[2])
            problem = f"Find the number that is asked for, given {others[0]} and {others[1]}."
            harmless.append({"answer": str(number), "problem": problem, "solution": f"I get {others[2]}.", "feedback": text})
    target = Path(__file__).parents[1] / "tests" / "goldens" / "leak-forms.json"
    made = {
        "made_by": f"python scripts/leak-forms.py (sympy {sp.__version__}, seed {SEED})",
        "cases": cases,
        "stating": STATING,
        "harmless": harmless,
    }
    target.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(len(case['forms']) for case in cases)} forms of {len(cases)} answers, {len(harmless)} harmless feedbacks")


if __name__ == "__main__":
    main()
