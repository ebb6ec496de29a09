"""The figures of page and report for a paper. Its modules but `stage` import matplotlib, which is an extra."""
