#!/usr/bin/env bash
# Verdict RL or ViL with verl's GRPO on one node of 8 GPUs, on rows of `stv-train data export --format verl`.
#   MODEL=Qwen/Qwen3-8B DATA=OUT KIND=vil training/launch/verl_grpo.sh
# KIND is vil (refinement turns) or verdict (reviews). Further verl settings are passed on behind the command.
set -euo pipefail
: "${MODEL:?}" "${DATA:?}" "${KIND:=vil}" "${GPUS:=8}" "${GROUP:=8}" "${RATE:=1e-6}" "${PROMPT:=4096}" "${RESPONSE:=4096}"
here=$(cd "$(dirname "$0")" && pwd)

python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  algorithm.norm_adv_by_std_in_grpo=False \
  algorithm.use_kl_in_reward=False \
  data.train_files="$DATA/$KIND.train.parquet" \
  data.val_files="$DATA/$KIND.val.parquet" \
  data.train_batch_size=32 \
  data.max_prompt_length="$PROMPT" \
  data.max_response_length="$RESPONSE" \
  data.filter_overlong_prompts=True \
  custom_reward_function.path="$here/reward.py" \
  custom_reward_function.name=compute_score \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.model.use_remove_padding=True \
  actor_rollout_ref.actor.optim.lr="$RATE" \
  actor_rollout_ref.actor.ppo_mini_batch_size=32 \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1 \
  actor_rollout_ref.actor.use_kl_loss=False \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n="$GROUP" \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2 \
  trainer.n_gpus_per_node="$GPUS" \
  trainer.nnodes=1 \
  trainer.logger='["console"]' \
  trainer.project_name=stv \
  trainer.experiment_name="$KIND" \
  trainer.total_epochs=1 \
  trainer.save_freq=20 \
  trainer.test_freq=20 \
  "$@"
