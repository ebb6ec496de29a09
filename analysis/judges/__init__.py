"""Chat models that are asked for explanations and verdicts, and the cache of their replies."""
