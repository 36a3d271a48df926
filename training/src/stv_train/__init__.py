"""Training of STV packs: tasks, base training, self-trained verification, verifier-in-the-loop RL, export."""

__version__ = "0.1.0"
