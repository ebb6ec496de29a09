"""The dictionary: its module, its sparse latents, what it reads, its metrics and its files."""
