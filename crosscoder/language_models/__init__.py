"""The language models of a pair: loading, hooks, forward passes, what they share, and how they are identified."""
