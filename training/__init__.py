"""training: the verbs that make a dictionary: harvest activations, feed them to a trainer, keep its state."""
