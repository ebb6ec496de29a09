"""Speed and memory of the analysis and of the page."""
