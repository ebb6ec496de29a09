"""Models and texts for the demo and the tests: a real pair that needs one extra package, and a toy pair that needs none."""
