"""One pass over held-out tokens: what is measured of every latent, and the one assembly of what the pass reads."""
