"""Labels of latents: the rule, its reasons, counts, false-discovery rates, and controls."""
