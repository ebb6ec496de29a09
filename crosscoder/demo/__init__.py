"""Models and texts for the demo and the tests: a real pair that needs an extra package, and a toy pair that does not."""
