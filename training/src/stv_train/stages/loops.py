"""The V-R loop in PyTorch, many chains at a time: for quick looks while training, and for the controls that no server offers,
because they are told the truth (ground-truth verdict with one feedback or another)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from .. import prompts
from ..documents import GENERIC_FEEDBACK, review_feedback
from ..files import read_json, write_json
from ..model import Llama
from ..probes import Judged, attempt_all, complete
from ..run import Run, fingerprint, weights_digest
from ..sampler import Sampling
from ..statistics import bootstrap
from ..tasks.checking import check, states_answer
from .bins import Binned, binned_problems
from .chunks import Row, kept_or_stopped

VERIFIERS = (("untrained", "base"), ("SFT", "sft"), ("verdict RL", "verdict-rl"), ("meta-verifier RL", "meta-rl"), ("STV", "stv"))


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to go round. `verdict`: `verifier`, `score` (the verdict word alone, without feedback before it), `truth`, or
    `none` (nothing is accepted). `feedback`: `verifier`, `generic`, `true`, or `none` (each round is a fresh sample)."""

    name: str
    verifier: Llama | None = None
    verdict: str = "verifier"
    feedback: str = "verifier"


@dataclass(frozen=True, slots=True)
class Loop:
    """Figures by round: pass@1, accept rate, and how many of the accepted are right."""

    name: str
    pass_at_1: list[float]
    accept_rate: list[float]
    precision: list[float]
    tokens: list[float]  # sampled by both roles up to each round, mean of the chains
    by_problem: list[float] = field(default_factory=list)  # final pass@1 of each problem, in the order of the problems

    def as_dict(self) -> dict[str, Any]:
        low, high = bootstrap(self.by_problem)
        return {
            "name": self.name,
            "pass_at_1": self.pass_at_1,
            "accept_rate": self.accept_rate,
            "precision": self.precision,
            "tokens": self.tokens,
            "interval": [low, high],
            "by_problem": self.by_problem,
        }


def attempt_sampling(run: Run) -> Sampling:
    """As the pack's generator is sampled, attempts and refinements alike."""
    return Sampling(run.config.export.temperature, run.config.rollout.max_new_tokens, run.config.rollout.batch)


def review_sampling(run: Run) -> Sampling:
    """As the pack's verifier is sampled."""
    return Sampling(run.config.export.verifier_temperature, run.config.verifier.max_new_tokens, run.config.rollout.batch)


def run_loop(run: Run, generator: Llama, protocol: Protocol, first: list[Judged], rounds: int) -> Loop:
    """The loop from the attempts `first` on; an accepted attempt stays as it is. Right is what states the right answer."""
    seed = run.config.run.seed + 70_000
    attempting = attempt_sampling(run)
    reviewing = review_sampling(run)
    current = list(first)
    accepted = [False] * len(first)
    spent = [len(run.tokenizer.encode(one.attempt)) + 1 for one in first]
    figures: dict[str, list[float]] = {"pass_at_1": [], "accept_rate": [], "precision": [], "tokens": []}
    for number in range(rounds + 1):
        open_rows = [at for at, done in enumerate(accepted) if not done]
        feedback = [GENERIC_FEEDBACK] * len(current)
        asked = [prompts.verify_prompt(current[at].problem.text, current[at].attempt) for at in open_rows]
        verdicts: list[str | None] = [None] * len(open_rows)
        if protocol.verifier is not None and protocol.verdict == "score":
            verdicts = _score_verdicts(run, protocol.verifier, asked)
            for at in open_rows:
                spent[at] += 1
        elif protocol.verifier is not None and open_rows:
            reviews = complete(protocol.verifier, run.tokenizer, asked, reviewing, seed + 2 * number)
            for place, (at, review) in enumerate(zip(open_rows, reviews, strict=True)):
                said, verdicts[place] = prompts.split_review(review)
                spent[at] += len(run.tokenizer.encode(review)) + 1
                if protocol.feedback == "verifier" and said.strip():
                    feedback[at] = said
        right = [states_answer(one.problem, one.attempt) for one in current]
        for at, verdict in zip(open_rows, verdicts, strict=True):
            accepted[at] = right[at] if protocol.verdict == "truth" else verdict == "accept"
            if protocol.feedback == "true" and not current[at].result.correct:
                feedback[at] = review_feedback(current[at].result)
        taken = [ok for ok, done in zip(right, accepted, strict=True) if done]
        figures["pass_at_1"].append(sum(right) / len(right))
        figures["accept_rate"].append(sum(accepted) / len(accepted))
        figures["precision"].append(sum(taken) / len(taken) if taken else 0.0)
        figures["tokens"].append(sum(spent) / len(spent))
        if number == rounds:
            break
        open_rows = [at for at, done in enumerate(accepted) if not done]
        if protocol.feedback == "none":
            asked = [prompts.generate_prompt(current[at].problem.text) for at in open_rows]
        else:
            asked = [prompts.refine_prompt(current[at].problem.text, current[at].attempt, feedback[at]) for at in open_rows]
        for at, text in zip(open_rows, complete(generator, run.tokenizer, asked, attempting, seed + 2 * number + 1), strict=True):
            current[at] = Judged(current[at].problem, text, check(current[at].problem, text))
            spent[at] += len(run.tokenizer.encode(text)) + 1
    by_problem: dict[str, list[bool]] = {}
    for one in current:
        by_problem.setdefault(one.problem.canonical, []).append(states_answer(one.problem, one.attempt))
    return Loop(protocol.name, **figures, by_problem=[sum(found) / len(found) for found in by_problem.values()])


@torch.no_grad()
def _score_verdicts(run: Run, verifier: Llama, asked: list[str]) -> list[str | None]:
    """The likeliest verdict word straight behind the prompt, as the server's mode `score` reads it."""
    opening = prompts.pack_json()["verdict"]["open"]
    words = [run.tokenizer.encode(word)[0] for word in prompts.VERDICTS]
    found: list[str | None] = []
    for text in asked:
        ids = run.tokenizer.encode(text + opening)[-verifier.config.max_length :]
        found.append(prompts.VERDICTS[int(verifier(torch.tensor([ids], device=run.device))[0, -1, words].argmax())])
    return found


def protocols(run: Run) -> list[Protocol]:
    """Every loop that the run's models allow."""
    trained = [(label, run.load_model(name)) for label, name in VERIFIERS if run.has_model(name)]
    models = dict(trained)
    found = [
        Protocol("resampling", None, "none", "none"),
        Protocol("truth, generic feedback", None, "truth", "generic"),
        Protocol("truth, true feedback", None, "truth", "true"),
    ]
    for label in ("untrained", "STV"):
        if label in models:
            found.append(Protocol(f"truth, feedback of {label}", models[label], "truth", "verifier"))
    for label in ("verdict RL", "STV"):
        if label in models:
            found.append(Protocol(f"verdict alone of {label}", models[label], "score", "generic"))
    return found + [Protocol(label, model) for label, model in trained]


def run_loops(run: Run, problems: list[Binned], chains: int, name: str) -> None:
    """All protocols on each bin of `problems`, from the same first attempts, into `evaluation/NAME.json`. Each loop is kept: what these
    very models already did is not done again. Raises Interrupted behind the loop in which `run` was told to stop; what an earlier call
    wrote is gone then."""
    path = run.folder / "evaluation" / f"{name}.json"
    path.unlink(missing_ok=True)
    rounds, generator = run.config.evaluate.rounds, run.load_model(run.config.evaluate.generator)
    asked = [(one.problem.text, one.bin) for one in problems]
    drawn = fingerprint(asked, chains, rounds, run.config.run.seed, weights_digest(generator), attempt_sampling(run), review_sampling(run))

    @cache
    def first(bin_name: str) -> list[Judged]:
        repeated = [one.problem for one in problems if one.bin == bin_name for _ in range(chains)]
        return attempt_all(generator, run.tokenizer, repeated, attempt_sampling(run), run.config.run.seed + 65_000)

    def loops(protocol: Protocol, bin_name: str) -> list[Row]:
        return [run_loop(run, generator, protocol, first(bin_name), rounds).as_dict()]

    ways = [(protocol, weights_digest(protocol.verifier) if protocol.verifier else "") for protocol in protocols(run)]
    found: dict[str, list[Row]] = {}
    for bin_name in dict.fromkeys(one.bin for one in problems):
        found[bin_name] = []
        for protocol, judge in ways:
            identity = fingerprint(drawn, bin_name, protocol.name, protocol.verdict, protocol.feedback, judge)
            file = run.folder / "evaluation" / "loops" / f"{identity}.jsonl"
            stopped = f"the loops of {bin_name} problems stopped behind {protocol.name}"
            (loop,) = kept_or_stopped(run, file, partial(loops, protocol, bin_name), stopped)
            found[bin_name].append(loop)
            run.say(
                f"loop {bin_name} ({len(loop['by_problem'])} problems) {protocol.name:28} pass@1 "
                + " ".join(f"{v:.1%}" for v in loop["pass_at_1"])
                + f"  accepted {loop['accept_rate'][-1]:.1%}  precision {loop['precision'][-1]:.1%}"
            )
    write_json(path, found)


def probe_loops(run: Run) -> None:
    """All loops on validation problems by bin. In-training figures, no evidence."""
    config = run.config.evaluate
    binned = binned_problems(run, run.load_model(config.generator), "validation", config.problems)
    run_loops(run, binned, config.chains, "probe")


def load_loops(path: Path) -> dict[str, list[Row]]:
    """Empty where there is no such file."""
    if not path.exists():
        return {}
    data: dict[str, list[Row]] = read_json(path)
    return data
