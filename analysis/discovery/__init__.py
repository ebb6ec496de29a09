"""What changed, without being told: behaviors found by comparing both models' answers, and tested on prompts that did not find them."""
