"""STV and ViL on Hugging Face causal models with LoRA: the same losses and steps as for the pack's own models."""
