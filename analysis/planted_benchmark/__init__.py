"""The planted benchmark: cases, runs, scores and tables on pairs with known differences."""
