"""Fine-tuning on videos with skeletons."""
