"""The planted benchmark: cases, runs, scores and tables, on pairs whose every difference is known."""
