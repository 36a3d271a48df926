"""The pack's tokenizer: numbers and step labels as single tokens beside all bytes, as a Hugging Face `tokenizer.json`.

Digits are cut in pairs from the right (12345 -> 1 23 45), so that places line up as in sums on paper; `Step 3: ` is one
token; an operator takes its spaces with it. Any other text falls back to bytes, so nothing is unreadable.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Tokenizer

from .tasks import outside, problems

SPECIALS = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, END = 0, 4
NUM_LABELS = 40
VOCAB_MULTIPLE = 32

# Lookaheads, no lookbehinds: the pattern must mean the same to Oniguruma and to JavaScript.
PATTERN = (
    r"Step \d{1,2}(?!\d)(?:: )?"
    r"|\d{1,2}(?=(?:\d\d)*(?!\d))"
    r"| ?[-+*/=×÷·−] ?"
    r"| ?[A-Za-z]+"
    r"|[.,:;?!] ?"
    r"|\n"
    r"|[^A-Za-z\d]"
)

_FEEDBACK_WORDS = (
    "ok is not times was copied as the term missing this does follow from line before cannot be read answer yet there no "
    "solution are too many steps Check with reference Verdict accept reject undetermined Step step should outside what I "
    "can check problem wrong look again mistake find a an of to and it in for here Here All right all correct flipped"
)


def _byte_letters() -> dict[int, str]:
    """Byte -> the visible letter that stands for it in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    spare = 256
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(spare)
            spare += 1
    return table


_LETTERS = _byte_letters()


def _visible(text: str) -> str:
    return "".join(_LETTERS[byte] for byte in text.encode())


def _words() -> list[str]:
    wordings = [text for text, _ in problems._EQUATION_WORDING + problems._CALCULATION_WORDING]
    wordings += [text for group in problems._PERCENT_WORDING.values() for text, _ in group]
    wordings += [*outside.TEMPLATES["train"], _FEEDBACK_WORDS, " ".join(outside.PLACES), " ".join(outside.THINGS)]
    found = {word for text in wordings for word in re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}", " ", text))}
    return sorted(found)


def vocabulary() -> list[str]:
    """All pieces by id, in the visible letters of a byte-level vocabulary; the specials come first."""
    pieces = [_LETTERS[byte] for byte in range(256)]
    pieces += [f"{tens}{ones}" for tens in range(10) for ones in range(10)]
    for number in range(1, NUM_LABELS + 1):
        pieces += [_visible(f"Step {number}"), _visible(f"Step {number}: ")]
    for op in "-+*/=×÷·−":
        pieces += [_visible(f" {op} "), _visible(f" {op}"), _visible(f"{op} "), _visible(op)]
    pieces += [_visible(f"{mark} ") for mark in ".,:;?!"]
    pieces += [_visible(f" {letter}") for letter in "abcdefghijklmnopqrstuvwxyzAI"]
    for word in _words():
        pieces += [_visible(word), _visible(f" {word}")]
    unique = list(dict.fromkeys(pieces))
    unique = [*SPECIALS, *unique]
    while len(unique) % VOCAB_MULTIPLE:
        unique.append(f"<|unused{len(unique)}|>")
    return unique


def tokenizer_json() -> dict[str, object]:
    vocab = {piece: index for index, piece in enumerate(vocabulary())}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, content in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": [],
        },
    }


class PackTokenizer:
    """Encodes and decodes with the very `tokenizer.json` that the pack ships."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json()))
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def write_tokenizer(folder: Path, chat_template: str, max_length: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "pad_token": "<|pad|>",
                "eos_token": "<|end|>",
                "model_max_length": max_length,
                "chat_template": chat_template,
            },
            indent=2,
        )
        + "\n"
    )
