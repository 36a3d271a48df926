"""Verdict RL or ViL with TRL's GRPO on rows of `stv-train data export --format trl`.

accelerate launch training/launch/trl_grpo.py --model Qwen/Qwen3-8B --data OUT/vil.train.jsonl --to OUT/vil
"""

import argparse

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from reward import trl_reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=1e-6)
    parser.add_argument("--vllm", action="store_true")
    arguments = parser.parse_args()
    config = GRPOConfig(
        output_dir=arguments.to,
        max_steps=arguments.steps,
        num_generations=arguments.group,
        max_completion_length=arguments.max_tokens,
        learning_rate=arguments.rate,
        # As in stv-train: reward minus the group's mean, no division by its deviation, no pull to a reference model.
        scale_rewards=False,
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=True,
        use_vllm=arguments.vllm,
        bf16=True,
        save_steps=20,
        report_to="none",
    )
    rows = load_dataset("json", data_files=arguments.data, split="train")
    trainer = GRPOTrainer(model=arguments.model, args=config, reward_funcs=trl_reward, train_dataset=rows)
    trainer.train()
    trainer.save_model(arguments.to)


if __name__ == "__main__":
    main()
