"""The dictionary: module, sparse latents, views, sparsity, kernels, metrics and files."""
