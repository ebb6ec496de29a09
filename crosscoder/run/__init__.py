"""A run folder: its files, its record, its wandb run, and its controls."""
