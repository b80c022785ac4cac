"""What the encoder knows: probes, few-label fine-tuning, raw features, the report at the end of a run."""
