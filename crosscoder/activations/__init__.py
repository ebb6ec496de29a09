"""Activations of all models on the same tokens: batches, shards, user files, transforms, linear maps."""
