"""Text before any model reads it: files, chat templates, documents as token ids, tokens of two tokenizers aligned."""
