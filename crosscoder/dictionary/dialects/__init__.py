"""Dictionaries in the formats of other tools: read into this toolkit's own, and written for them."""
