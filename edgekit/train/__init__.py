"""Training: augmentation, batches, the loop and what it leaves behind."""
