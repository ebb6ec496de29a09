"""The command `crosscoder`: its verbs, and the reference documentation made from the code."""
