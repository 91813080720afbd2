"""Training: configs, the loop of fine-tuning and its augmentations, and how pretraining starts."""
