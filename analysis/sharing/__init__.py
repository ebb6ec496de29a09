"""The latents of a run for the dashboards of other tools."""
