"""Analysis of a chain of checkpoints: trajectories, onsets, and the change alarm."""
