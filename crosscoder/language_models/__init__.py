"""The language models of a pair: loading, hooks, forward passes, shared layers, and identity."""
