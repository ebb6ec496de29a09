"""The live page of a run: reads a typed text with both models and the dictionary, and generates answers steered by latents.

Its results come from one text, without intervals or controls. They illustrate what the report measured and are not measurements.
"""
