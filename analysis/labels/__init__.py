"""From numbers to labels: the rule, its reasons, counts, false discovery, and the control dictionaries."""
