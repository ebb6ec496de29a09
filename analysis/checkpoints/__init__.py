"""What is said of a chain of checkpoints: trajectories, onsets, an alarm."""
