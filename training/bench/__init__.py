"""Benchmarks of training for `crosscoder bench`: each timing is compared with a reference timed in the same process."""
