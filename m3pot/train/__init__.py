"""Training: configuration, data preparation, loss, step, loop, fine-tuning, model card."""
