"""The figures of page and report in publication form. All modules except `stage` and `plot` import matplotlib, an optional extra."""
