"""Chat models that write explanations and verdicts, and the cache of their replies."""
