"""What the whole difference between two models consists of: a constant offset, latents, subspaces and a linear map."""
