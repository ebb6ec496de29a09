"""The verbs that read a trained dictionary: statistics, labels, examples, report, page."""
