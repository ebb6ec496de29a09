"""Benchmarks of training, as `crosscoder bench` runs them: every figure beside a reference of the same process."""
