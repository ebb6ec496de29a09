"""Measurements of every latent in one pass over held-out tokens, and the loading of a trained run."""
