"""Tokenizer, prompts and documents: what is trained is what the server will send."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from stv_train import prompts
from stv_train.config import BaseConfig
from stv_train.documents import DocumentSource, Mix, corrected, encode, true_review
from stv_train.tasks.checking import check
from stv_train.tasks.mistakes import wrong_attempt
from stv_train.tasks.problems import TASKS, make_problem, read_problem, split_of
from stv_train.tasks.steps import attempt_lines, standing_after
from stv_train.tokenizer import PackTokenizer, tokenizer_json, vocabulary

TEXTS = [
    "Step 1: 4x - 12 + 5 = 2x + 9\nStep 2: 12345 - (-3)",
    "Step 40: 0.05 × 100 ÷ 3 · 2 − 1",
    "Verdict: accept",
    "Step 3 step 3: Step 123: x",
    "Hëllo wörld, 漢字 🙂 \t  two  spaces\n\n",
    "<|user|>3x=6<|end|><|assistant|>",
    "a1b22c333d4444e55555",
    "",
    "What is 20% of 50?",
]


def test_numbers_and_labels_are_single_tokens(tokenizer: PackTokenizer) -> None:
    assert len(set(vocabulary())) == len(vocabulary()) == tokenizer.vocab_size
    assert tokenizer.vocab_size % 32 == 0
    for text in ["0", "7", "42", "99", "07", "Step 3", "Step 12: ", " + ", "accept", "reject", "undetermined", "Verdict", ": ", "ok"]:
        assert len(tokenizer.encode(text)) == 1, text
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12345")] == ["1", "23", "45"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(text: str, tokenizer: PackTokenizer) -> None:
    plain = text.replace("<|", "< |")
    assert tokenizer.decode(tokenizer.encode(plain)) == plain


NODE = """
import {readFileSync} from 'node:fs';
import {Tokenizer} from '@huggingface/tokenizers';
import {Template} from '@huggingface/jinja';
const given = JSON.parse(readFileSync(0, 'utf8'));
const tokenizer = new Tokenizer(given.tokenizer, {});
const ids = given.texts.map((text) => tokenizer.encode(text, {add_special_tokens: false}).ids);
const rendered = given.prompts.map(([source, values]) => new Template(source).render(values));
console.log(JSON.stringify({ids, rendered}));
"""


def test_node_gives_the_same_ids_and_prompts(tokenizer: PackTokenizer, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    if not shutil.which("node") or not (root / "node_modules/@huggingface/tokenizers").exists():
        pytest.skip("needs Node and the server's packages")
    rng = Random(3)
    source = DocumentSource(Mix(BaseConfig().kinds, dict.fromkeys(TASKS, 1.0)), 11)
    documents = [source.draw(number) for number in range(150)]
    texts = TEXTS + [d.prompt + d.answer for d in documents]
    templates = []
    for name, values in (
        ("generate", {"problem": "  3x = 6 \n"}),
        ("attempt", {"attempt": "3x = 6\n\n  x = 2 "}),
        ("attempt", {"attempt": " Step 1: 3x = 6\nStep 2: x = 2\n"}),
        ("solution", {"solution": "x = 2"}),
        ("refine", {"feedback": "\nStep 1: no.\n"}),
        ("verify-reference", {"reference": " x = 2 "}),
    ):
        templates.append((prompts.template_text(f"prompts/{name}.jinja"), values))
    given = {"tokenizer": tokenizer_json(), "texts": texts, "prompts": templates}
    done = subprocess.run(
        ["node", "--input-type=module", "-e", NODE], input=json.dumps(given), capture_output=True, text=True, cwd=root, check=True
    )
    found = json.loads(done.stdout)
    assert found["ids"] == [tokenizer.encode(text) for text in texts]
    assert found["rendered"] == [prompts._template(text).render(**values) for text, values in templates]
    assert rng is not None


def test_unlabelled_solutions_are_numbered_by_the_prompt() -> None:
    plain, labelled = "3x = 6\n\n  x = 2", "Step 1: 3x = 6\nStep 2: x = 2"
    assert prompts.verify_prompt("3x = 6", plain) == prompts.verify_prompt("3x = 6", labelled)


def test_reviews_are_read_back() -> None:
    assert prompts.split_review("Step 1: ok\nVerdict: accept") == ("Step 1: ok", "accept")
    assert prompts.split_review("Verdict: reject") == ("", "reject")
    assert prompts.split_review("a\nVerdict: accept\nVerdict: reject") == ("a\nVerdict: accept", "reject"), "the last verdict counts"
    for bad in ("", "Step 1: ok", "Step 1: ok\nVerdict: perhaps", "Step 1: ok\nVerdict: accept …"):
        assert prompts.split_review(bad)[1] is None, bad


def test_documents_are_drawn_by_number_and_carry_true_reviews(tokenizer: PackTokenizer) -> None:
    mix = Mix(BaseConfig().kinds, dict.fromkeys(TASKS, 1.0))
    one, other = DocumentSource(mix, 4), DocumentSource(mix, 4)
    kinds = set()
    for number in reversed(range(600)):
        document = one.draw(number)
        kinds.add(document.kind)
        assert document == other.draw(number)
        row = encode(document, tokenizer, 1024)
        assert row is not None and 0 < row.num_prompt < len(row.ids)
        assert row.ids == tokenizer.encode(document.prompt + document.answer + "<|end|>"), "the border changes no token"
        if document.kind == "verify":
            assert prompts.split_review(document.answer)[1] in ("accept", "reject")
    assert kinds == set(BaseConfig().kinds)


def test_right_beginnings_of_attempts_are_learned_as_solving(tokenizer: PackTokenizer) -> None:
    source = DocumentSource(Mix({"refine": 0.5, "teacher": 0.5}, dict.fromkeys(TASKS, 1.0)), 12)
    num_learned = 0
    for number in range(120):
        row = encode(source.draw(number), tokenizer, 1024)
        assert row is not None
        if not row.learned:
            continue
        ((start, stop),) = row.learned
        num_learned += 1
        assert stop <= row.num_prompt
        written = tokenizer.decode(row.ids[:start]), tokenizer.decode(row.ids[start:stop])
        problem = read_problem(written[0])
        assert row.ids[:start] == tokenizer.encode(prompts.generate_prompt(problem.text)), "it follows the problem"
        lines = written[1].strip().splitlines()
        for at, line in enumerate(lines):
            assert line.startswith(f"Step {at + 1}: ")
        standing_after(problem, attempt_lines(written[1]))  # raises where a step does not follow: only right ones are learned
        if row.ids[stop - 1] == 4:
            assert check(problem, written[1]).correct, "only a right attempt teaches to end"
    assert num_learned > 60


def test_drills_are_right_problems_of_the_training_split_and_only_results_are_learned(tokenizer: PackTokenizer) -> None:
    source = DocumentSource(Mix({"drill": 1.0}, dict.fromkeys(TASKS, 1.0)), 13)
    num_calculations = 0
    for number in range(480):
        document = source.draw(number)
        row = encode(document, tokenizer, 1024)
        assert row is not None
        assert tokenizer.decode(row.ids[row.num_prompt :]) == document.answer and not row.learned
        question = document.prompt.removeprefix("<|user|>").partition("<|end|>")[0]
        if "times" in question or any(letter.isalpha() for letter in question):
            continue
        problem = read_problem(question)
        assert check(problem, document.answer).correct, question
        assert split_of(problem.canonical) == "train"
        num_calculations += 1
    assert num_calculations > 200


def test_a_document_that_the_context_does_not_hold_is_left_out(tokenizer: PackTokenizer) -> None:
    document = DocumentSource(Mix({"check": 1.0}, {"equations:1-7": 1.0}), 16).draw(0)
    row = encode(document, tokenizer, 1024)
    assert row is not None
    assert encode(document, tokenizer, len(row.ids)) == row
    assert encode(document, tokenizer, len(row.ids) - 1) is None


def test_comparisons_are_judged_truly_and_half_of_them_are_wrong(tokenizer: PackTokenizer) -> None:
    source = DocumentSource(Mix({"compare": 1.0}, {"equations:1-7": 1.0}), 15)
    judgements = []
    for number in range(600):
        document = source.draw(number)
        text, judgement = document.prompt, document.answer
        found = re.search(r" is (\S+), (?:here|before) (\S+)$", text) or re.search(r"over (\d+), here over (\d+)$", text)
        assert found, text
        assert judgement == (", ok" if found[1] == found[2] else ", wrong."), text
        # The same tokens as in the midst of a review.
        assert tokenizer.encode(text) + tokenizer.encode(judgement) == tokenizer.encode(text + judgement)
        judgements.append(judgement)
    assert 0.4 < judgements.count(", ok") / len(judgements) < 0.6


def test_checks_are_true_reviews_of_short_attempts_and_of_begun_ones() -> None:
    source = DocumentSource(Mix({"check": 1.0}, {"equations:1-7": 1.0, "order:3-4": 1.0}), 14)
    ends = {"accepted": 0, "begun well": 0, "wrong": 0}
    for number in range(240):
        document = source.draw(number)
        text, attempt = (part.partition("<|end|>")[0] for part in document.prompt.removeprefix("<|user|>").split("<|assistant|>")[:2])
        problem = read_problem(text)
        assert split_of(problem.canonical) == "train"
        result = check(problem, attempt)
        assert document.answer in (true_review(result), prompts.score_text("accept" if result.correct else "reject"))
        ends["accepted" if result.correct else "begun well" if result.kind == "unfinished" else "wrong"] += 1
    assert all(count > 30 for count in ends.values()), "whether an attempt is finished does not tell whether its steps are right"


def test_a_rare_task_is_met_in_more_checks_than_its_weight() -> None:
    source = DocumentSource(Mix({"check": 1.0}, {"equations:1-2": 0.9, "percent:1-2": 0.1}), 15)
    texts = [source.draw(number).prompt.removeprefix("<|user|>").partition("<|end|>")[0] for number in range(400)]
    share = sum(read_problem(text).task == "percent" for text in texts) / len(texts)
    assert 0.2 < share < 0.3, "the root of 0.1 beside that of 0.9 is a quarter"


def test_corrected_attempt_keeps_what_is_right_and_is_right() -> None:
    rng = Random(8)
    for task, levels in TASKS.items():
        for level in range(1, levels + 1):
            problem = make_problem(task, level, rng)
            attempt, result = wrong_attempt(problem, rng)
            made = corrected(problem, attempt, result)
            assert check(problem, made).correct
            kept = (result.first_error or 1) - 1
            assert made.splitlines()[:kept] == attempt.splitlines()[:kept]
