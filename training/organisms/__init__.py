"""Model organisms: code that trains or alters a language model to make a pair with a known difference."""
