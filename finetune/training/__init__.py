"""The loop of fine-tuning and its augmentations."""
