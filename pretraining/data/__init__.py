"""From what a recipe calls a source to batches with masks: sources, reading, sampling, streaming, collating."""
