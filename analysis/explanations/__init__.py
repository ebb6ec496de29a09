"""Explanations of latents: sentences from the evidence, rules for where a latent fires, and explanations written by a language model."""
