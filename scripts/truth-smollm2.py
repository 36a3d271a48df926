"""First half of the truth check: what `transformers` computes from the dequantized weights of a GGUF file.

    python scripts/truth-smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf OUT [--window 1024]

Writes OUT/tokens.json (windows of token ids of scripts/truth-text.txt) and OUT/logits.f32 (float32 `[positions, vocabulary]`,
window after window). `node scripts/truth-smollm2.mjs` compares our graphs with them.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("gguf", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--text", type=pathlib.Path, default=pathlib.Path(__file__).with_name("truth-text.txt"))
parser.add_argument("--window", type=int, default=1024, help="tokens that see each other")
arguments = parser.parse_args()

source = {"pretrained_model_name_or_path": arguments.gguf.parent, "gguf_file": arguments.gguf.name}
tokenizer = AutoTokenizer.from_pretrained(**source)
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()

ids = tokenizer(arguments.text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
windows = [ids[start : start + arguments.window] for start in range(0, len(ids), arguments.window)]
arguments.out.mkdir(parents=True, exist_ok=True)
with (arguments.out / "logits.f32").open("wb") as file, torch.inference_mode():
    for window in windows:
        logits = model(torch.tensor([window])).logits[0]
        file.write(logits.contiguous().numpy().tobytes())
facts = {"vocabSize": logits.shape[1], "windows": windows}
(arguments.out / "tokens.json").write_text(json.dumps(facts))
print(f"{len(ids)} positions in {len(windows)} windows of at most {arguments.window}")
