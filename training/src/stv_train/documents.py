"""Training texts: problem, prompt and answer of each kind, drawn by seed and number, so that a run resumes anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from . import prompts
from .errors import OutsideDomain
from .tasks.checking import OK, Check, check
from .tasks.equation_levels import NAMES
from .tasks.expression import Bin, Num
from .tasks.mistakes import beginning, slip, student_attempt
from .tasks.outside import make_outside
from .tasks.problems import TASKS, canonical_calculation, kinds_of, make_problem, read_problem, split_of
from .tasks.steps import Leaf, Problem, attempt_lines, solution_text, solve, standing_after
from .tokenizer import END, PackTokenizer

OUTSIDE_FEEDBACK = "This problem is outside what I can check."
OUTSIDE_ANSWER = "This problem is outside what I can solve."
FEW = 24  # own attempts of a level and verdict below which students' take their place
CHECK_LEVELS = 3  # lowest levels of each task: attempts of a line or two
GENERIC_FEEDBACK = "The solution is wrong. Find the mistake."


@dataclass(frozen=True, slots=True)
class Document:
    """`prompt` begins with `learned`, of which all behind `head` is learned too: the right beginning of an attempt that
    the prompt holds reads exactly as the beginning of a solution does."""

    kind: str
    prompt: str
    answer: str
    head: str = ""
    learned: str = ""


@dataclass(frozen=True, slots=True)
class OwnAttempt:
    """An attempt of the generator, kept with what is needed to check it again."""

    problem: str
    task: str
    level: int
    attempt: str


Judgement = tuple[Problem, str, Check]
"""A problem, an attempt at it, and what is to be said about it."""


class OwnAttempts:
    """Attempts of the generator to learn from, by task and level, told apart once: checking thousands takes many seconds."""

    def __init__(self, attempts: Iterable[OwnAttempt] = ()) -> None:
        self._kinds: dict[tuple[str, int, bool], list[Judgement]] = {}
        for own in attempts:
            problem = read_problem(own.problem, own.task, own.level)
            result = check(problem, own.attempt)
            self._kinds.setdefault((own.task, own.level, result.correct), []).append((problem, own.attempt, result))

    def like(self, problem: Problem, right: bool) -> list[Judgement]:
        """Right or wrong ones of the problem's task and level; none where there are too few to be drawn again and again."""
        found = self._kinds.get((problem.task, problem.level, right), [])
        return found if len(found) >= FEW else []


NO_ATTEMPTS = OwnAttempts()


def review_feedback(result: Check) -> str:
    """The feedback part of a true verification: for each step what it follows from, worked out, and then `ok` or the finding."""
    ends = [OK] * len(result.worked)
    if not result.correct:
        ends[-1] = result.finding
    lines = zip(result.worked, ends, strict=True)
    return "\n".join(f"Step {number}: " + ", ".join([*worked, end]) for number, (worked, end) in enumerate(lines, 1))


def verdict_of(result: Check) -> str:
    return "accept" if result.correct else "reject"


def true_review(result: Check) -> str:
    return prompts.review_text(review_feedback(result), verdict_of(result))


def hint_of(result: Check) -> str:
    """What the teacher is shown beside the verdict: the reference's line at the first wrong step."""
    if result.correct:
        return ""
    return f"Step {result.first_error}: {result.expected}" if result.expected else f"Step {result.first_error}"


def teacher_prompt(problem: Problem, attempt: str, result: Check) -> str:
    return prompts.teacher_prompt(problem.text, attempt, verdict_of(result), hint_of(result))


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the kinds of documents, and weights of tasks; levels of a task weigh `falling ** (level - 1)`."""

    kinds: dict[str, float]
    tasks: dict[str, float]
    falling: float = 0.85
    rising: float = 1.0


class _Kinds:
    """Some levels of every task, the levels of a task alike, tasks by the roots of their weights: what a step of a rare task takes to
    learn is not rarer."""

    def __init__(self, mix: Mix, first: int, end: int | None) -> None:
        found = [(kind, weight**0.5) for task, weight in mix.tasks.items() if weight > 0 for kind in kinds_of(task)[first:end]]
        self.kinds, self._weights = [kind for kind, _ in found], [weight for _, weight in found]

    def draw(self, rng: Random) -> tuple[str, int]:
        return rng.choices(self.kinds, self._weights)[0]


class DocumentSource:
    """Document number n of a seeded, endless stream; `own_share` of the attempts in them are the generator's own, where there are any."""

    def __init__(self, mix: Mix, seed: int, own: OwnAttempts = NO_ATTEMPTS, own_share: float = 0.6) -> None:
        self.mix, self.seed, self.own, self.own_share = mix, seed, own, own_share
        self._short, self._longer = _Kinds(mix, 0, CHECK_LEVELS), _Kinds(mix, CHECK_LEVELS, None)

    def problem(self, rng: Random) -> Problem:
        task = rng.choices(list(self.mix.tasks), list(self.mix.tasks.values()))[0]
        kinds = kinds_of(task)
        return make_problem(*rng.choices(kinds, [self.mix.falling ** (level - 1) for _, level in kinds])[0], rng)

    def wrong(self, rng: Random) -> Judgement:
        return self._attempt(rng, False)

    def right(self, rng: Random) -> Judgement:
        return self._attempt(rng, True)

    def _attempt(self, rng: Random, right: bool) -> Judgement:
        """The level is drawn before the attempt: were right and wrong ones drawn from all levels together, the level would tell."""
        while True:
            problem = self.problem(rng)
            if (own := self.own.like(problem, right)) and rng.random() < self.own_share:
                return rng.choice(own)
            attempt, result = student_attempt(problem, rng, right)
            if result.correct == right:
                return problem, attempt, result

    def draw(self, number: int) -> Document:
        rng = Random(f"{self.seed}:{number}")
        kind = rng.choices(list(self.mix.kinds), list(self.mix.kinds.values()))[0]
        match kind:
            case "drill":
                question, answer = drill(rng)
                return Document(kind, prompts.generate_prompt(question), solution_text([answer.text()]))
            case "check":
                return Document(kind, *self._check(rng))
            case "compare":
                return Document(kind, *comparison(rng))
            case "solve":
                problem = self.problem(rng)
                return Document(kind, prompts.generate_prompt(problem.text), solution_text(solve(problem)))
            case "refine":
                return self._refine(rng)
            case "teacher":
                problem, attempt, result = (self.wrong if rng.random() < 0.75 else self.right)(rng)
                prompt = teacher_prompt(problem, attempt, result)
                if rng.random() < 0.05:  # score mode: the verdict alone
                    return with_attempt(kind, problem, attempt, result, prompt, prompts.score_text(verdict_of(result)))
                return with_attempt(kind, problem, attempt, result, prompt, true_review(result))
            case "reference":
                problem, attempt, result = (self.wrong if rng.random() < 0.6 else self.right)(rng)
                reference = solution_text(solve(problem))
                prompt = prompts.reference_prompt(problem.text, _as_typed(attempt, rng), reference)
                return with_attempt(kind, problem, attempt, result, prompt, true_review(result))
            case "verify":
                problem, attempt, result = (self.wrong if rng.random() < 0.5 else self.right)(rng)
                prompt = prompts.verify_prompt(problem.text, _as_typed(attempt, rng))
                return with_attempt(kind, problem, attempt, result, prompt, true_review(result))
            case "score":
                problem, attempt, result = (self.wrong if rng.random() < 0.5 else self.right)(rng)
                prompt = prompts.verify_prompt(problem.text, attempt)
                return with_attempt(kind, problem, attempt, result, prompt, prompts.score_text(verdict_of(result)))
            case "outside":
                return self._outside(rng)
        raise ValueError(f"unknown kind of document {kind!r}")

    def _check(self, rng: Random) -> tuple[str, str]:
        """A short attempt and its review: whether a single step holds is learned on these, as sums are on drills. Long solutions
        are cut off behind a line or two, right or wrong, so that brackets and fractions are met in short attempts as well."""
        right = rng.random() < 0.5
        if self._longer.kinds and rng.random() < 0.5:
            problem = make_problem(*self._longer.draw(rng), rng)
            attempt, result = begun_attempt(problem, rng, right)
        else:
            problem = make_problem(*self._short.draw(rng), rng)
            attempt, result = student_attempt(problem, rng, right)
        answer = prompts.score_text(verdict_of(result)) if rng.random() < 0.1 else true_review(result)
        return prompts.verify_prompt(problem.text, _as_typed(attempt, rng)), answer

    def _refine(self, rng: Random) -> Document:
        problem, attempt, result = self.wrong(rng)
        # The whole review, as the loop passes it on, or only its last line, as a person would write it.
        feedback = review_feedback(result) if rng.random() < 0.8 else result.feedback
        if rng.random() < 0.06:
            feedback = GENERIC_FEEDBACK
        prompt = prompts.refine_prompt(problem.text, _as_typed(attempt, rng), feedback)
        return with_attempt("refine", problem, attempt, result, prompt, corrected(problem, attempt, result))

    def _outside(self, rng: Random) -> Document:
        text = make_outside(rng)
        if rng.random() < 0.4:
            return Document("outside", prompts.generate_prompt(text), OUTSIDE_ANSWER)
        attempt = outside_attempt(rng)
        prompt = prompts.verify_prompt(text, attempt)
        if rng.random() < 0.4:
            prompt = prompts.teacher_prompt(text, attempt, "undetermined", "")
        if rng.random() < 0.2:
            return Document("outside", prompt, prompts.score_text("undetermined"))
        return Document("outside", prompt, prompts.review_text(OUTSIDE_FEEDBACK, "undetermined"))


def drill(rng: Random) -> tuple[str, Leaf]:
    """A single operation and its result, as numbers, as coefficients of an unknown, or in the words of feedback. Sums and
    products are learned on these in a tenth of the tokens that whole solutions need."""
    while True:
        if rng.random() < 0.6:
            a, b = (_drill_number(rng) * rng.choice((1, 1, -1)) for _ in range(2))
            sign = rng.choice("+-")
            result = a + b if sign == "+" else a - b
        else:
            # As far as lines of solutions go: 9 x 40 in brackets, 60 x 15 in calculations.
            highest, most = rng.choice(((12, 12), (12, 60), (15, 60)))
            a, b = rng.randint(2, highest), rng.randint(0, most)
            a, b = a * rng.choice((1, 1, -1)), b * rng.choice((1, 1, -1))
            if rng.random() < 0.3:
                a, b = b or a, a
            sign, result = "*", a * b
            if rng.random() < 0.4:
                a, sign, b, result = result, "/", a, b
        question = f"{a} {sign} {b}" if b >= 0 else f"{a} {sign} ({b})"
        if split_of(canonical_calculation(Bin(sign, Num(a), Num(b)))) != "train":
            continue
        if sign in "+-" and 0 not in (a, b, result) and rng.random() < 0.4:
            name = rng.choice(NAMES)
            first, second, whole = (Leaf(value, suffix=name) for value in (a, abs(b), result))
            return f"{first.text()} {sign if b >= 0 else '-' if sign == '+' else '+'} {second.text()}", whole
        return (f"{a} times {b}" if sign == "*" and rng.random() < 0.3 else question), Leaf(result)


def comparison(rng: Random) -> tuple[str, str]:
    """The middle of a review, a number worked out and the one that has to agree with it, and its judgement. Attempts hold one wrong
    number in ten or more; where half of them are wrong, comparing is learned from a tenth of the tokens."""
    lead = f"Step {rng.randint(1, 9)}: " if rng.random() < 0.5 else ""
    if rng.random() < 0.06:
        below = rng.randint(2, 144)
        said = below if rng.random() < 0.5 else abs(slip(below, rng)) or 1
        return f"{lead}over {below}, here over {said}", ", ok" if said == below else ", wrong."
    question, want = drill(rng)
    got, name = want, want.suffix
    if rng.random() < 0.5:
        typical = [int(found) for found in re.findall(r"\d+", question)] + [want.numerator + 10, 2 * want.numerator, 1]
        while got == want or (name and not got.numerator):
            got = replace(want, numerator=slip(want.numerator, rng) if rng.random() < 0.8 else rng.choice(typical))
    place = "before" if not name and rng.random() < 0.3 else "here"
    lead = lead or f", here {Leaf(rng.randint(1, 99), suffix=name).text()}, "
    return f"{lead}{question} is {want.text()}, {place} {got.text()}", ", ok" if got == want else ", wrong."


def _drill_number(rng: Random) -> int:
    pick = rng.random()
    return rng.randint(0, 20) if pick < 0.35 else rng.randint(0, 99) if pick < 0.75 else rng.randint(100, 700)


def outside_attempt(rng: Random, split: str = "train") -> str:
    """What someone may hand in for a problem that is outside: worked steps, a bare answer, or anything else."""
    if rng.random() < 0.5:
        task = rng.choice(list(TASKS))
        return solution_text(solve(make_problem(task, rng.randint(1, TASKS[task]), rng, split)))
    return rng.choice((OUTSIDE_ANSWER, make_outside(rng, split), f"x = {rng.randint(1, 40)}", str(rng.randint(1, 99))))


def begun_attempt(problem: Problem, rng: Random, right: bool) -> tuple[str, Check]:
    """The first line or two of a student's attempt; the last of them is wrong unless `right`."""
    while True:
        if problem.task == "equations":
            if (found := beginning(problem, rng.randint(1, 2), rng, right)) is not None:
                return found
            continue
        attempt, result = student_attempt(problem, rng, right)
        kept = rng.randint(1, 2) if right else result.first_error or 1
        if kept <= 2:
            begun = solution_text(attempt_lines(attempt)[:kept])
            return begun, check(problem, begun)


def make_outside_attempt(rng: Random) -> tuple[str, str]:
    text = make_outside(rng)
    return text, outside_attempt(rng)


def corrected(problem: Problem, attempt: str, result: Check) -> str:
    """The attempt up to its first wrong step, then the canonical way on: only what is wrong changes."""
    lines = attempt_lines(attempt)
    if result.correct:
        return solution_text(lines)
    kept = lines[: (result.first_error or 1) - (0 if result.kind == "unfinished" else 1)]
    while True:
        line, rest = standing_after(problem, kept), list[str]()
        try:
            while (step := line.next()) is not None:
                line = step[0]
                rest.append(line.text())
        except OutsideDomain:
            kept.pop()  # a right line with numbers that this pack does not reach
        else:
            return solution_text([*kept, *rest] or [line.text()])


def _as_typed(attempt: str, rng: Random) -> str:
    """Now and then without labels, as people write (the pack's prompt numbers the lines itself)."""
    return "\n".join(attempt_lines(attempt)) if rng.random() < 0.1 else attempt


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    num_prompt: int
    learned: tuple[tuple[int, int], ...] = ()  # ranges inside the prompt that are learned as well


def encode(document: Document, tokenizer: PackTokenizer, max_length: int) -> Encoded | None:
    """Token ids with the end token; None when longer than the model's context."""
    prompt = tokenizer.encode(document.prompt)
    ids = [*prompt, *tokenizer.encode(document.answer), END]
    if len(ids) > max_length:
        return None
    learned: tuple[tuple[int, int], ...] = ()
    if document.learned and document.prompt.startswith(document.learned):
        learned = ((len(tokenizer.encode(document.head)), len(tokenizer.encode(document.learned))),)
    return Encoded(ids, len(prompt), learned)


def with_attempt(kind: str, problem: Problem, attempt: str, result: Check, prompt: str, answer: str) -> Document:
    """A document whose prompt holds an attempt: the steps before the first wrong one are learned as solving."""
    head = prompts.generate_prompt(problem.text)
    right = attempt_lines(attempt) if result.correct else attempt_lines(attempt)[: (result.first_error or 1) - 1]
    tail = "<|end|>" if result.correct else "\n" if right else ""
    return Document(kind, prompt, answer, head, head + solution_text(right) + tail if right else "")
