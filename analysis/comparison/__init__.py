"""Several runs side by side: settings, findings, labels, behaviors and latents, as a table and as a page."""
