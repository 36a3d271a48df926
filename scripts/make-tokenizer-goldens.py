"""Makes the golden encodings of the tokenizer tests.

    pip install transformers tokenizers gguf sentencepiece jinja2
    python scripts/make-tokenizer-goldens.py [SmolLM2-135M-Instruct.Q4_1.gguf]   # writes tests/goldens/tokenizers/*.json

Small vocabularies are trained here, one for each pre-tokenizer that a GGUF file can name, and written as the metadata a GGUF
file would hold; the encodings are those of Python's `tokenizers` (SentencePiece's own for the `llama` kind), set up by hand
and not through the code under test. With the path of a GGUF file, the encodings of its real vocabulary are written too; its
chats go through `transformers`. Everything is deterministic.
"""

import io
import json
import random
import sys
from pathlib import Path

import sentencepiece
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parent.parent / "tests" / "goldens" / "tokenizers"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\n2x = 7\nx = 3.5",
    "Step 1: 12345 + 678 = 13023. Step 2: 1,000,000 / 3 is about 333333.33",
    "\\boxed{\\frac{1}{2}} and $\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$",
    "def f(x: int) -> int:\n    if x < 2:\n\t\treturn x\n    return f(x - 1) + f(x - 2)  # comment\n\n\n",
    "I'll say it's what they've done; we'd go, you're right, I'm sure he doesn't. I'LL SAY IT'S.",
    "  leading and trailing spaces   ",
    "a  b   c    d\t\te\n\nf\r\ng \n h\n\n\n\n",
    "Zażółć gęślą jaźń. Ünïcödé — “quotes”, ‘single’… naïve café e\u0301 vs \u00e9",
    "今天天气很好。我们来解方程：二乘以x等于八。",
    "こんにちは世界、カタカナ。 안녕하세요 세계",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום",
    "😀 😀😃 👨\u200d👩\u200d👧\u200d👦 🇩🇪 👍🏽 ✅",
    "½ ² x³ ① Ⅷ ٣٤ १२३ 𝟙𝟚 12½",
    "\u00a0non\u00a0breaking\u2003em\u3000ideographic\u200bzero",
    "<feedback>\nStep 2 is wrong: 4 * -3 is -12.\n</feedback>\n<verdict>wrong</verdict>",
    "{\"key\": [1, 2.5, null], \"other\": \"va\\\"lue\"}",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\Users\\x",
    "<|im start|> <|im_star <im_end|> |> <| < im_end",
    "x",
    " ",
    "\n",
    "🤷",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "......!!!!!!??????------======######",
    "\x00\x01\x7f control \x1b[0m",
    # JavaScript and Unicode disagree whether these are white space
    "next\u0085line  \u0085 and   \u0085\u0085x\n\n\u0085",
    "\ufeffbyte  \ufeff order   \ufeff\ufeffx\n\n\ufeff! \ufeff",
]
CHATS = [
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "  Solve x + 3 < 10 and y > 2.\n"},
        {"role": "assistant", "content": "Step 1: x < 7"},
        {"role": "user", "content": "Check: a<b, <b>bold</b> → 今天"},
    ],
]
CORPUS = [*TEXTS[:17], *(chat["content"] for chats in CHATS for chat in chats)] * 3


def split_by_regex(digits):
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


KINDS = {
    "gpt-2": (None, byte_level, {}),
    "smollm": (
        None,
        lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        {},
    ),
    "qwen2": (normalizers.NFC, lambda: split_by_regex(r"\p{N}"), {}),
    "llama-bpe": (None, lambda: split_by_regex(r"\p{N}{1,3}"), {"ignore_merges": True}),
}


def assembled(kind, vocab, merges, specials):
    normalizer, pre_tokenizer, options = KINDS[kind]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return tokenizer


def encodings(tokenizer, texts):
    return [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]


def chats(tokenizer, template):
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return [
        {
            "messages": messages,
            "addGenerationPrompt": prompt,
            "ids": wrapped.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=prompt, tokenize=True, return_dict=False
            ),
        }
        for messages in CHATS
        for prompt in (True, False)
    ]


def write(name, golden):
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"madeBy": "scripts/make-tokenizer-goldens.py", **golden}, ensure_ascii=True, separators=(",", ":"))
    (OUT / f"{name}.json").write_text(text + "\n")
    print(f"{name}: {len(golden['texts'])} texts, {len(text)} bytes")


def make_byte_level(kind):
    normalizer, pre_tokenizer, _ = KINDS[kind]
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])]
    full = assembled(kind, model["vocab"], [tuple(merge) for merge in model["merges"]], SPECIALS)
    write(
        kind,
        {
            "metadata": {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": kind,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
                "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eos_token_id": 2,
                "tokenizer.chat_template": TEMPLATE,
            },
            "texts": encodings(full, TEXTS),
            "chats": chats(full, TEMPLATE),
        },
    )


def make_sentencepiece():
    model = io.BytesIO()
    lines = [line for text in CORPUS for line in text.split("\n") if line.strip() and "\x00" not in line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=640,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = processor.get_piece_size()

    def kind(index):
        if processor.is_unknown(index):
            return 2
        if processor.is_control(index):
            return 3
        return 6 if processor.is_byte(index) else 1

    # SentencePiece cannot hold NUL, and normalizes nothing else here
    texts = [text for text in TEXTS if "\x00" not in text]
    write(
        "llama-spm",
        {
            "metadata": {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.pre": "default",
                "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in range(size)],
                "tokenizer.ggml.scores": [processor.get_score(index) for index in range(size)],
                "tokenizer.ggml.token_type": [kind(index) for index in range(size)],
                "tokenizer.ggml.bos_token_id": processor.bos_id(),
                "tokenizer.ggml.eos_token_id": processor.eos_id(),
                "tokenizer.ggml.unknown_token_id": processor.unk_id(),
                "tokenizer.ggml.add_space_prefix": True,
            },
            "texts": [{"text": text, "ids": processor.encode(text)} for text in texts],
            "chats": [],
        },
    )


def make_real(path):
    reader = GGUFReader(path)
    field = {name: reader.fields[name].contents() for name in reader.fields if name.startswith("tokenizer.")}
    tokens = field["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    specials = [token for token, type_ in zip(tokens, field["tokenizer.ggml.token_type"]) if type_ == 3]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = assembled(field["tokenizer.ggml.pre"], vocab, merges, specials)
    rng = random.Random(7)
    words = [word for text in TEXTS for word in text.split(" ")]
    mixed = [" ".join(rng.choices(words, k=60)) for _ in range(20)]
    write(
        "smollm2",
        {
            "file": Path(path).name,
            "texts": encodings(tokenizer, [*TEXTS, *mixed]),
            "chats": chats(tokenizer, field["tokenizer.chat_template"]),
        },
    )


if __name__ == "__main__":
    for kind in KINDS:
        make_byte_level(kind)
    make_sentencepiece()
    if len(sys.argv) > 1:
        make_real(sys.argv[1])
