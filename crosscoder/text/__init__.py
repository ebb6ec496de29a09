"""Text before any forward pass: files, chat templates, documents as token ids, alignment of two tokenizers."""
