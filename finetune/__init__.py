"""Fine-tuning and evaluation of a pretrained encoder."""
