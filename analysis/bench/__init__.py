"""Benchmarks of the speed and memory of the analysis and the page."""
