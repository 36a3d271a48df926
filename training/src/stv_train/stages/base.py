"""Training on documents: from nothing one model that solves, refines, explains as teacher, and knows the verifier's format; where
`generator.tokens` asks for it, from that one or from nothing too a generator that only solves and refines."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from ..batches import answer_loss, batches, collate
from ..config import RANDOM, TRUNK, BaseConfig
from ..documents import DocumentSource, Mix
from ..drawing import Order, drawer
from ..errors import TrainError
from ..files import write_jsonl
from ..gates import measure_gates, report_gates
from ..model import Llama
from ..optim import MuonAdamW, schedule
from ..probes import attempt_all, solve_probe
from ..run import Interrupted, Progress, Run, fingerprint
from ..sampler import Sampling
from .adopt import checkpoint_digest, read_checkpoint
from .chunks import Row, in_chunks
from .rollout import CHUNK, row

LOG_EVERY = 50
POLL_SECONDS = 0.2
BUFFER = 4096  # documents drawn, sorted by length and cut into batches at a time


@dataclass(frozen=True, slots=True)
class Course:
    """One training on documents, by the name of the model that it makes: `trunk`, `base` or `generator`."""

    run: Run
    name: str

    @property
    def config(self) -> BaseConfig:
        config = self.run.config
        return {"trunk": config.trunk, "base": config.base, "generator": config.generator}[self.name]

    @property
    def seed(self) -> int:
        """Of the documents: none of one course comes again in another."""
        return self.run.config.run.seed + {"base": 0, "generator": 100_000, "trunk": 200_000}[self.name]

    @property
    def origin(self) -> str:
        """`start_from`, where nothing is said what that means: random weights, for the generator the base."""
        return self.config.start_from or ("base" if self.name == "generator" else RANDOM)

    @property
    def identity(self) -> str:
        """Of all that decides the weights."""
        c = self.run.config
        drawn = "" if self.drawn_by is self else self.drawn_by.identity
        return fingerprint(c.run.seed, c.model, c.data.tasks, c.data.falling, self.name, self.config, self._before, drawn)

    @property
    def drawn_by(self) -> Course:
        """Whose attempts this one learns from."""
        return Course(self.run, self.config.own_attempts_of) if self.config.own_attempts_of else self

    @property
    def _before(self) -> str:
        """What trained the weights that this begins with, or which these are where nobody here did."""
        if self.origin == RANDOM:
            return ""
        return Course(self.run, self.origin).identity if self.origin in (TRUNK, "base") else checkpoint_digest(Path(self.origin))


def train_trunk(run: Run) -> None:
    """Trains, or goes on with, what base and generator have in common, unless it is there."""
    if not run.has_model(TRUNK):
        _train(Course(run, TRUNK))


def train_base(run: Run, beside: bool = False) -> Llama:
    """Trains, or goes on, until `base.tokens` are seen; then measures the gates. Returns the model. `beside`: another process trains the
    generator meanwhile, so attempts that it has not drawn yet are waited for."""
    return _train(Course(run, "base"), beside)


def train_generator(run: Run) -> None:
    """Goes on from the base with the documents of `generator.kinds`, where the generator is a model of its own."""
    if run.config.generator.is_own_model:
        _train(Course(run, "generator"))


def _train(course: Course, beside: bool = False) -> Llama:
    run, name, config = course.run, course.name, course.config
    if run.has_model(name):
        run.say(f"{name}: already trained")
        return run.load_model(name)
    model = first_model(course)
    if run.config.run.compile:
        require_compiler(run)
        model.hidden = torch.compile(model.hidden, dynamic=True)  # type: ignore[method-assign]
    optimizer = MuonAdamW(model, config.muon_lr, config.adam_lr)
    number = tokens = done = 0  # first document of the buffer; tokens seen; batches of the buffer already taken
    tokens_at_buffer = 0  # decides which pool of own attempts the buffer draws from, also after a restart inside it
    spent = 0.0
    if (state := run.load_checkpoint(name, course.identity)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        number, tokens, done, spent = state["number"], state["tokens"], state["done"], state["spent"]
        tokens_at_buffer = state["tokens_at_buffer"]
        run.say(f"{name}: goes on at {tokens:,} tokens")
    run.say(f"{name}: {model.num_parameters():,} parameters, vocabulary {run.tokenizer.vocab_size}, {config.tokens:,} tokens")
    progress = Progress(name, config.tokens, "tokens", tokens)
    began = saved = time.monotonic()
    next_probe = (tokens // config.probe_tokens + 1) * config.probe_tokens
    losses: list[float] = []
    comma = run.tokenizer.encode(", ")[0]
    rounded = run.precision == torch.bfloat16  # products of other types need no preparation, and padding costs a fifteenth

    def checkpoint() -> None:
        run.save_checkpoint(
            name,
            {
                "identity": course.identity,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "number": number,
                "tokens": tokens,
                "tokens_at_buffer": tokens_at_buffer,
                "done": done,
                "spent": spent + time.monotonic() - began,
            },
        )

    with run.interruptible(), drawer() as drawn:
        while tokens < config.tokens:
            own = own_attempts(course, model, tokens_at_buffer, checkpoint, beside)
            rows = drawn.take(order_at(course, number, tokens_at_buffer, own))
            upcoming = tokens_at_buffer + sum(len(row.ids) for row in rows)
            if upcoming < config.tokens and (next_own := pool_at(course, upcoming)) in (None, own):
                drawn.prepare(order_at(course, number + BUFFER, upcoming, next_own))
            groups = batches(rows, config.batch_tokens, Random(f"{course.seed}:order:{number}"), rounded)
            for group in groups[done:]:
                batch = collate(group, run.device, rounded)
                loss = answer_loss(model, batch, comma, config.judgement_weight)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = optimizer.clip(config.clip)
                optimizer.step(schedule(tokens, config.tokens, decay=config.decay))
                tokens += batch.num_tokens
                done += 1
                losses.append(loss.item())
                if len(losses) >= LOG_EVERY:
                    mean = sum(losses) / len(losses)
                    run.log(name, tokens=tokens, loss=mean, gradient_norm=norm)
                    losses.clear()
                    progress.update(tokens, f"loss {mean:.4f}")
                if run.stopping and tokens < config.tokens:
                    checkpoint()
                    raise Interrupted(f"{name} stopped at {tokens:,} of {config.tokens:,} tokens")
                if time.monotonic() - saved > run.config.run.checkpoint_seconds:
                    checkpoint()
                    saved = time.monotonic()
                if tokens >= config.tokens:
                    break
            number, done, tokens_at_buffer = number + BUFFER, 0, tokens
            if tokens >= next_probe:
                next_probe += config.probe_tokens
                found = solve_probe(model, run.tokenizer, run.config.data.tasks, config.probe_problems, course.seed)
                run.log(f"{name}-probe", tokens=tokens, **found)
                run.say(f"probe at {tokens:,}: " + "  ".join(f"{name} {share:.0%}" for name, share in found.items()))
        checkpoint()  # what follows takes its time too
        asked = run.stopping
    spent += time.monotonic() - began
    facts = {"tokens": tokens, "seconds": round(spent, 1), "identity": course.identity}
    if name == "base":
        facts["gates"] = gates = measure_gates(run, model, model)
        report_gates(run, gates)
    run.save_model(name, model, facts)
    run.end_checkpoint(name)
    if asked:
        raise Interrupted(f"{name} is done")
    return model


def require_compiler(run: Run) -> None:
    """torch.compile would find out minutes later, in many lines."""
    name = os.environ.get("CXX") or "g++"
    if run.device.type == "cpu" and shutil.which(name) is None:
        raise TrainError(f"run.compile needs a C++ compiler, and there is no {name} here; install one, or set run.compile=false.")


def first_model(course: Course) -> Llama:
    """What training begins with: random weights, a model of the run (the trunk is trained first where it is missing) or a checkpoint
    of the same shape."""
    run, origin = course.run, course.origin
    if origin == RANDOM:
        return run.new_model(course.seed)
    if origin == TRUNK:
        train_trunk(run)
    return run.load_model(origin) if origin in (TRUNK, "base") else read_checkpoint(run, Path(origin), f"{course.name}.start_from")


def mix_at(course: Course, tokens: int) -> Mix:
    """Short and easy documents first: copying and single operations are learned on them in far fewer tokens."""
    config, data = course.config, course.run.config.data
    progress = min(1.0, tokens / (config.curriculum * config.tokens)) if config.curriculum else 1.0
    falling = config.first_falling + (data.falling - config.first_falling) * progress
    kinds = dict(config.kinds)
    if "drill" in kinds:
        others = sum(kinds.values()) - kinds["drill"]
        first = config.first_drill / (1 - config.first_drill) * others  # weight that gives drills their first share
        # Falls fast: whole solutions teach the rest of arithmetic once sums are there.
        kinds["drill"] = first + (kinds["drill"] - first) * min(1.0, 3 * progress)
    return Mix(kinds, data.tasks, falling)


def order_at(course: Course, number: int, tokens: int, own: Path | None) -> Order:
    """The buffer that begins with document `number` when `tokens` have been seen."""
    longest = course.run.config.model.max_length
    return Order(mix_at(course, tokens), course.seed, number, BUFFER, longest, own, course.config.own_share)


def pool_at(course: Course, tokens: int) -> Path | None:
    """File of the newest pool of the generator's own attempts that is due at `tokens`, whether drawn yet or not. The course that draws
    them names its folder: attempts of a model that was trained otherwise are not its own."""
    config, other = course.config, course.drawn_by
    due = [at for at, share in enumerate(config.own_attempts_at) if tokens >= share * config.tokens]
    if not due or not other.config.own_attempts:
        return None
    return course.run.folder / other.name / f"own-{other.identity}" / f"{due[-1]}.jsonl"


def own_attempts(course: Course, model: Llama, tokens: int, checkpoint: Callable[[], None], beside: bool = False) -> Path | None:
    """The same file, drawn first where it does not exist; that takes minutes and can be interrupted too. Raises TrainError where another
    course has to draw it and is not at it."""
    path = pool_at(course, tokens)
    if path and not path.exists():
        checkpoint()
        if course.drawn_by is course:
            _draw_pool(course, model, path)
        elif beside:
            _wait_for_pool(course, path)
        else:
            raise TrainError(f"{course.name} learns from attempts of the {course.drawn_by.name}, which is not trained: train it first.")
    return path


def _wait_for_pool(course: Course, path: Path) -> None:
    run = course.run
    run.say(f"{course.name}: waits for the attempts of the {course.drawn_by.name}")
    while not path.exists():
        if run.stopping:
            raise Interrupted(f"{course.name} stopped while it waited for the attempts of the {course.drawn_by.name}")
        time.sleep(POLL_SECONDS)


def _draw_pool(course: Course, model: Llama, path: Path) -> None:
    run, config = course.run, course.config
    seed = course.seed + 1000 * (int(path.stem) + 1)
    source = DocumentSource(Mix({"solve": 1.0}, run.config.data.tasks, min(1.0, run.config.data.falling * 1.1)), seed)

    def draw(first: int, count: int) -> Iterator[Row]:
        problems = [source.problem(Random(f"{seed}:own:{at}")) for at in range(first, first + count)]
        judged = attempt_all(model, run.tokenizer, problems, Sampling(batch=run.config.rollout.batch), seed + first)
        return (row(one) for one in judged)

    began = time.monotonic()
    chunks = in_chunks(run, f"{course.name}: own attempts", path.with_suffix(""), config.own_attempts, CHUNK, draw)
    rows = [one for part in chunks for one in part]
    share = sum(one["correct"] for one in rows) / max(len(rows), 1)
    run.log(f"{course.name}-own", attempts=len(rows), right=share, seconds=time.monotonic() - began)
    run.say(f"{course.name}: {len(rows):,} own attempts, {share:.1%} right")
    write_jsonl(path, rows)
