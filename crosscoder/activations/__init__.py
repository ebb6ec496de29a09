"""Activations of all models on the same tokens: batches, shards, a user's own arrays, and pairs derived from them."""
