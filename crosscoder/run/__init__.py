"""A run folder: its files, its record, its wandb run, and which control dictionaries it has."""
