"""The live page of a run: a text that a person types, read by both models and by the dictionary, and answers with latents as a lever.

What it shows are single readings: without intervals, without a control. It illustrates what the report measured, and measures nothing.
"""
