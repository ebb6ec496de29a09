"""What is said of a latent: sentences from evidence, a rule for where it fires, and explanations that a language model writes."""
