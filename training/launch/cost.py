"""What one turn (bins, STV, RLVR, ViL, evaluation) costs on one node: memory, tokens, hours and money, from token rates.

    python training/launch/cost.py --sample-rate 13300 --price 2.5

Defaults: Qwen3-8B on 8 H100 of 80 GB. Every number is an argument; no package is needed."""

import argparse

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--parameters", type=float, default=8.19e9)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu-gib", type=float, default=80e9 / GIB)
    parser.add_argument("--sample-rate", type=float, default=2815, help="sampled tokens a second and GPU")
    parser.add_argument("--flops", type=float, default=989e12, help="dense bf16 peak of a GPU")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the peak that training reaches")
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU hour")
    parser.add_argument("--problem", type=int, default=150, help="tokens of a problem")
    parser.add_argument("--attempt", type=int, default=2000, help="tokens of an attempt")
    parser.add_argument("--review", type=int, default=800, help="tokens of a review")
    parser.add_argument("--problems", type=int, default=3000, help="to find the hard ones among, 32 samples each")
    parser.add_argument("--batch", type=int, default=256, help="samples of a step")
    parser.add_argument("--stv-steps", type=int, default=200)
    parser.add_argument("--rlvr-steps", type=int, default=200)
    parser.add_argument("--vil-steps", type=int, default=100)
    parser.add_argument("--evaluated", type=int, default=400, help="problems")
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()

    n, share = a.parameters, 1 / a.gpus
    print("Memory a GPU (GiB)")
    print(f"  weights bf16, gradients bf16, Adam's moments and master weights fp32, sharded: {16 * n * share / GIB:.1f}")
    print(f"  the frozen teacher's weights bf16, sharded: {2 * n * share / GIB:.1f} (none with LoRA: adapters off)")
    print(f"  the sampler's own weights bf16: {2 * n / GIB:.1f}")
    per_token = 2 * a.layers * a.kv_heads * a.head_dim * 2
    rest = 0.6 * a.gpu_gib - 2 * n / GIB
    print(f"  the sampler's cache at 60 % of the memory: {rest:.1f}, {rest * GIB / per_token:,.0f} tokens of {per_token / 1024:.0f} KiB")
    print(f"  logits fp32 of a review, all words, student and teacher: {2 * 4 * a.vocabulary * a.review / GIB:.1f}; top 100: under 0.01")

    prompt = a.problem + a.attempt
    # Sampled tokens, and trained tokens in forward-and-backward units of 8 N (6 N and the recomputed forward).
    stages = {
        "bins (attempts serve STV too)": (a.problems * 32 * a.attempt, 0.0),
        "STV": (a.stv_steps * a.batch * a.review, a.stv_steps * a.batch * (prompt + a.review + (2 * prompt + a.review) / 4)),
        "RLVR": (a.rlvr_steps * a.batch * a.attempt, a.rlvr_steps * a.batch * (a.problem + a.attempt)),
        "ViL": (a.vil_steps * a.batch * a.attempt, a.vil_steps * a.batch * (prompt + a.review + a.attempt)),
        "evaluation of 3 pairs": (3 * a.evaluated * a.chains * (a.attempt + a.review + a.rounds * (a.attempt + a.review)), 0.0),
    }
    train_rate = a.flops * a.mfu / (8 * n)
    print(f"\nTraining {train_rate:,.0f} tokens a second and GPU ({a.mfu:.0%} of the peak), sampling {a.sample_rate:,.0f}\n")
    print("| Stage | sampled, M tokens | trained, M tokens | hours | price |\n|---|---|---|---|---|")
    total = 0.0
    for name, (sampled, trained) in stages.items():
        hours = (sampled / a.sample_rate + trained / train_rate) / a.gpus / 3600
        total += hours
        print(f"| {name} | {sampled / 1e6:,.0f} | {trained / 1e6:,.0f} | {hours:.1f} | {hours * a.gpus * a.price:,.0f} |")
    print(f"| all | | | {total:.1f} | {total * a.gpus * a.price:,.0f} |")


if __name__ == "__main__":
    main()
