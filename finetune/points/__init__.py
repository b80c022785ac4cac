"""Fine-tuning on point clouds."""
