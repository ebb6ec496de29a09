"""Shifts of behaviors between the two models, their attribution to latents, and causal checks of the latents."""
