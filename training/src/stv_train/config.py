"""Configuration: TOML files into frozen values, with complaints that name the field. One section per stage."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from .errors import TrainError
from .tasks.problems import TASKS, kinds_of

RANDOM, TRUNK = "random", "trunk"
"""`start_from` of a generator that does not begin with the base, and of the two that begin with what `[trunk]` has trained."""
LENGTH_STEP = 64
"""What the context of a model is a multiple of: the padding of batches never goes beyond it."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    out: str = "runs/mini"
    seed: int = 1
    threads: int = 0  # 0: what PyTorch chooses
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "float32"  # of the products in training: float32, bfloat16, or auto: bfloat16 where its products are faster
    compile: bool = False  # fuses the pass of base training with torch.compile; needs a C++ compiler, pays after a minute
    checkpoint_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class ModelSection:
    hidden_size: int = 128
    num_layers: int = 6
    num_heads: int = 2
    num_kv_heads: int = 1
    head_dim: int = 64
    intermediate_size: int = 384
    max_length: int = 1024


@dataclass(frozen=True, slots=True)
class DataConfig:
    tasks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 1.0))
    falling: float = 0.9  # weight of a level against the one below
    problems_per_bin: int = 200
    gym: tuple[str, ...] = ()  # reasoning-gym data sets to read problems from
    user_problems: str = ""  # JSONL of the user's own problems


@dataclass(frozen=True, slots=True)
class BaseConfig:
    tokens: int = 100_000_000
    start_from: str = ""  # folder of a Hugging Face checkpoint, `random` or `trunk`; empty: random weights, for the generator the base
    batch_tokens: int = 4096
    muon_lr: float = 0.006
    adam_lr: float = 0.006
    decay: float = 0.4
    clip: float = 1.0
    judgement_weight: float = 1.0  # of the token behind a comma of a review: `ok`, `wrong` or the next thing that is worked out
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "drill": 0.25,
            "compare": 0.13,
            "check": 0.26,
            "solve": 0.08,
            "refine": 0.085,
            "teacher": 0.05,
            "reference": 0.006,
            "verify": 0.11,
            "score": 0.01,
            "outside": 0.025,
        }
    )
    own_attempts_at: tuple[float, ...] = (0.5, 0.75)  # shares of the tokens after which attempts are drawn
    own_attempts: int = 20_000
    own_attempts_of: str = ""  # `generator`, for the base: those that the generator draws beside it; empty: the course's own
    own_share: float = 0.6
    first_falling: float = 0.45  # weight of a level against the one below at the very beginning: easy problems first
    first_drill: float = 0.92  # share of drills among the documents at the very beginning
    curriculum: float = 0.35  # share of the tokens over which these become data.falling and the share in `kinds`
    probe_tokens: int = 2_000_000
    probe_problems: int = 12  # per task and level


@dataclass(frozen=True, slots=True)
class TrunkConfig(BaseConfig):
    """What base and generator have in common: the first documents, on all threads, before the two go their own ways."""

    tokens: int = 0  # 0: there is none
    decay: float = 0.0  # the rate stays: those that begin with it go on at it
    own_attempts: int = 0


@dataclass(frozen=True, slots=True)
class GeneratorConfig(BaseConfig):
    """Documents that the generator alone goes on with, from the base: one model of this size is not the best at everything."""

    tokens: int = 0  # 0: the base is the generator, or the checkpoint that `start_from` names as it is
    muon_lr: float = 0.004
    adam_lr: float = 0.003
    decay: float = 0.7
    kinds: dict[str, float] = field(default_factory=lambda: {"drill": 0.6, "solve": 0.175, "refine": 0.21, "outside": 0.015})
    own_attempts_at: tuple[float, ...] = (0.0,)
    curriculum: float = 0.0

    @property
    def is_own_model(self) -> bool:
        return bool(self.tokens) or self.start_from not in ("", RANDOM)


@dataclass(frozen=True, slots=True)
class GateConfig:
    problems: int = 400
    samples: int = 32
    bin_problems: int = 100
    sums: float = 0.95
    teacher: float = 0.80
    refine_ratio: float = 2.0
    refine_temperature: float = 0.5
    enforce: bool = True


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    attempts: int = 40_000
    temperature: float = 1.0
    max_new_tokens: int = 320
    batch: int = 256
    rising: float = 1.0  # weight of a level against the one below, for attempts


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """Shared by sft, verdict-rl, stv and meta-rl, so that baselines have the same budget."""

    samples: int = 30_000
    batch: int = 128
    muon_lr: float = 0.002
    adam_lr: float = 0.0005
    temperature: float = 1.0
    max_new_tokens: int = 384  # true reviews of right attempts at the hardest equations of `mini.toml` have 330
    opd_coef: float = 1.0
    pg_coef: float = 0.1
    alpha: float = 0.5
    top_k: int = 0  # 0: full vocabulary
    teacher: str = "frozen"  # frozen, ema, live
    ema: float = 0.05  # share of the live weights that enters the teacher per step
    score_share: float = 0.15  # score-only verifications among the samples
    outside_share: float = 0.04
    student_share: float = 0.15  # attempts with students' mistakes, or worked by the book, among the generator's own
    probe_every: int = 20


@dataclass(frozen=True, slots=True)
class VilConfig:
    rlvr_steps: int = 60  # at most; it ends earlier when validation no longer rises
    steps: int = 60
    patience: int = 3  # probes without a gain that end RLVR
    prompts: int = 32
    group: int = 8
    muon_lr: float = 0.001
    adam_lr: float = 0.0003
    decay: float = 0.5  # share of ViL's steps in which the rate falls; RLVR's stays
    temperature: float = 1.0
    max_new_tokens: int = 320
    missed_share: float = 0.7  # problems that a rollout's attempt missed, among those to practise on; the others are new
    rejected: int = 1024  # attempts that the verifier does not accept, drawn once; refinement turns take them in turn
    first_share: float = 0.25  # prompts of round 0 among the refinement turns
    std_normalization: bool = False
    probe_every: int = 10
    probe_problems: int = 8  # per task and level


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    generator: str = "base"  # whose attempts are evaluated: bins are measured on it, every verifier is paired with it
    server: str = ""  # command of the server; empty: the repository's own build, or `stv` on the path
    problems: int = 200  # of each bin
    attempts: int = 200  # to verify, of each class
    per_level: int = 14  # problems of each level as they come, and of attempts as people hand them in (`compare`)
    chains: int = 8
    rounds: int = 5  # refinements
    concurrency: int = 8  # requests under way, each with all chains of a problem
    slots: int = 64  # sequences that the server decodes together
    threads: int = 0  # of the server; 0: what it chooses
    pairs: tuple[str, ...] = ()  # GENERATOR+VERIFIER beside the pack; empty: all that the run has trained
    second_seed: bool = True  # the headline pairs once more with another seed
    controls: bool = True  # loops that are told the truth, in PyTorch, on the hard bins
    control_chains: int = 2
    larger: str = ""  # folder of a run with a larger base: a generator without a verifier


@dataclass(frozen=True, slots=True)
class ExportConfig:
    folder: str = ""  # empty: `pack` below the run
    max_mib: float = 24.0
    weights: str = "float32"  # float32, bfloat16
    temperature: float = 1.0  # of the pack's generator, attempts and refinements alike
    verifier_temperature: float = 1.0  # of the pack's verifier


@dataclass(frozen=True, slots=True)
class HfConfig:
    """`stv-train hf`: STV and ViL with LoRA on a Hugging Face causal model. Losses are set in [verifier] and [vil]."""

    checkpoint: str = ""  # a folder, a GGUF file or a hub's name
    pack: str = "packs/smollm2"  # prompts and verdict format to train with
    name: str = "stv-lora"  # of the pack that is made
    tasks: tuple[str, ...] = ("order-1", "order-2", "equations-1")  # TASK-LEVEL of the problems
    attempts: int = 32
    attempts_file: str = ""  # graded attempts of one's own, as `data from-traces` writes them
    rank: int = 8
    alpha: int = 16
    rate: float = 1e-4
    batch: int = 4  # reviews of a step of STV
    stv_steps: int = 4
    vil_steps: int = 2
    prompts: int = 2  # refinement turns of a step of ViL
    group: int = 4
    temperature: float = 0.5  # of attempts and refinements; small models ramble at 1. Reviews have verifier.temperature
    max_new_tokens: int = 48
    sample_batch: int = 8
    weights: str = "bfloat16"  # float32, bfloat16


@dataclass(frozen=True, slots=True)
class ReportConfig:
    title: str = ""  # of REPORT.md; empty: the run's name
    foreword: str = ""  # what a reader must know beforehand: what the models are to each other


@dataclass(frozen=True, slots=True)
class Config:
    run: RunConfig = RunConfig()
    model: ModelSection = ModelSection()
    data: DataConfig = field(default_factory=DataConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    gates: GateConfig = GateConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    vil: VilConfig = VilConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    hf: HfConfig = HfConfig()
    report: ReportConfig = ReportConfig()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(path: Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Reads a TOML file; `overrides` are `section.field` -> TOML value. Raises TrainError naming the field at fault."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise TrainError(f"There is no configuration file {path}.") from None
    except OSError as error:
        raise TrainError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainError(f"The configuration {path} is not valid TOML: {error}.") from None
    for name, text in (overrides or {}).items():
        section, _, key = name.partition(".")
        if not key:
            raise TrainError(f"--set takes section.field=value, not {name!r}.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        data.setdefault(section, {})[key] = value
    config: Config = _build(Config, data, "")
    _check(config)
    return config


def _build(kind: type[Any], data: object, where: str) -> Any:
    if not isinstance(data, dict):
        raise TrainError(f"The configuration's {where or 'top level'} must be a table, not {data!r}.")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            raise TrainError(f"The configuration's {name} is not a known field; known are {', '.join(sorted(known))}.")
        values[key] = _convert(hints[key], value, name)
    return kind(**values)


def _convert(hint: Any, value: object, name: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, name)
    text = str(hint)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if text == "dict[str, float]" and isinstance(value, dict) and all(isinstance(v, int | float) for v in value.values()):
        return {str(key): float(number) for key, number in value.items()}
    if text == "tuple[float, ...]" and isinstance(value, list) and all(isinstance(v, int | float) for v in value):
        return tuple(float(v) for v in value)
    if text == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise TrainError(f"The configuration's {name} must be {getattr(hint, '__name__', text)}, not {value!r}.")


_ABOVE_0 = {
    "model": tuple(f.name for f in fields(ModelSection)),
    "trunk": ("batch_tokens", "judgement_weight", "probe_tokens"),
    "base": ("tokens", "batch_tokens", "judgement_weight", "probe_tokens"),
    "generator": ("batch_tokens", "judgement_weight", "probe_tokens"),
    "gates": ("problems", "samples"),
    "rollout": ("batch",),
    "verifier": ("batch", "temperature", "probe_every"),
    "vil": ("prompts", "temperature", "rejected", "probe_every", "probe_problems"),
    "evaluate": ("per_level", "chains", "control_chains"),
    "hf": ("attempts", "rank", "batch", "prompts", "temperature", "max_new_tokens", "sample_batch"),
}
"""Fields by section that something is divided by, or that are counted through."""


def _need(right: bool, sentence: str) -> None:
    if not right:
        raise TrainError(sentence)


def _check(config: Config) -> None:
    for section, names in _ABOVE_0.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            _need(value > 0, f"{section}.{name} must be above 0, not {value}.")
    _check_tasks(config)
    for name, course in (("trunk", config.trunk), ("base", config.base), ("generator", config.generator)):
        _check_course(name, course)
    _check_origins(config)
    _check_words(config)
    _check_shape(config.model)
    _check_numbers(config)


def _check_tasks(config: Config) -> None:
    for task, weight in config.data.tasks.items():
        kinds_of(task)
        _need(weight >= 0, f"data.tasks.{task} must not be negative, not {weight}.")
    _need(sum(config.data.tasks.values()) > 0, "data.tasks must give some task a weight above 0.")
    for task in config.hf.tasks:
        name, _, level = task.partition("-")
        levels = TASKS.get(name, 0)
        _need(level.isdigit() and 1 <= int(level) <= levels, f"hf.tasks names {task!r}; it takes TASK-LEVEL, as in order-1.")


def _check_course(section: str, config: BaseConfig) -> None:
    """A training on documents."""
    known = set(BaseConfig().kinds)
    for kind, weight in config.kinds.items():
        _need(kind in known, f"{section}.kinds names {kind!r}; known kinds are {', '.join(sorted(known))}.")
        _need(weight >= 0, f"{section}.kinds.{kind} must not be negative, not {weight}.")
    _need(sum(config.kinds.values()) > 0, f"{section}.kinds must give some kind a weight above 0.")
    _need(config.tokens >= 0, f"{section}.tokens must not be negative, not {config.tokens}.")
    _need(0 <= config.first_drill < 1, f"{section}.first_drill must be at least 0 and below 1, not {config.first_drill}.")


def _check_origins(config: Config) -> None:
    late = "it cannot begin with what comes after it, or with itself."
    _need(config.trunk.start_from not in (TRUNK, "base"), f"trunk.start_from must not be {config.trunk.start_from}: {late}")
    _need(config.base.start_from != "base", f"base.start_from must not be base: {late}")
    for section, start in (("base", config.base.start_from), ("generator", config.generator.start_from)):
        _need(start != TRUNK or config.trunk.tokens > 0, f"{section}.start_from is trunk, so trunk.tokens must be above 0.")
    _check_drawers(config)


def _check_drawers(config: Config) -> None:
    base, generator = config.base, config.generator
    for section, course in (("trunk", config.trunk), ("generator", generator)):
        _need(not course.own_attempts_of, f"{section}.own_attempts_of must be empty, not {course.own_attempts_of!r}: it draws its own.")
    if not base.own_attempts_of:
        return
    _need(base.own_attempts_of == "generator", f"base.own_attempts_of must be generator or empty, not {base.own_attempts_of!r}.")
    independent = generator.tokens > 0 and generator.start_from not in ("", "base")
    _need(independent, "base.own_attempts_of is generator, so generator.tokens must be above 0 and generator.start_from not the base.")
    drawn = len(generator.own_attempts_at) if generator.own_attempts else 0
    _need(
        len(base.own_attempts_at) <= drawn,
        f"base.own_attempts_at names {len(base.own_attempts_at)} shares, but the generator draws attempts {drawn} times.",
    )


def _check_words(config: Config) -> None:
    for name, value, known in (
        ("run.device", config.run.device, ("auto", "cpu", "cuda")),
        ("run.precision", config.run.precision, ("float32", "bfloat16", "auto")),
        ("verifier.teacher", config.verifier.teacher, ("frozen", "ema", "live")),
        ("export.weights", config.export.weights, ("float32", "bfloat16")),
        ("hf.weights", config.hf.weights, ("float32", "bfloat16")),
    ):
        _need(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}.")


def _check_shape(model: ModelSection) -> None:
    _need(
        model.num_heads % model.num_kv_heads == 0,
        f"model.num_heads ({model.num_heads}) must be a multiple of num_kv_heads ({model.num_kv_heads}).",
    )
    for name, value, step in (
        ("max_length", model.max_length, LENGTH_STEP),
        ("hidden_size", model.hidden_size, 32),
        ("intermediate_size", model.intermediate_size, 32),
    ):
        _need(value % step == 0, f"model.{name} must be a multiple of {step}, not {value}.")


def _check_numbers(config: Config) -> None:
    _need(config.run.threads >= 0, f"run.threads must not be negative, not {config.run.threads}.")
    _need(0 <= config.verifier.alpha <= 1, f"verifier.alpha must be within 0..1, not {config.verifier.alpha}.")
    _need(0 <= config.vil.missed_share <= 1, f"vil.missed_share must be within 0..1, not {config.vil.missed_share}.")
    for section, group in (("vil", config.vil.group), ("hf", config.hf.group)):
        _need(group >= 2, f"{section}.group must be at least 2, not {group}.")
    for name, value in (("temperature", config.export.temperature), ("verifier_temperature", config.export.verifier_temperature)):
        _need(0 < value <= 2, f"export.{name} must be above 0 and at most 2, not {value}.")
