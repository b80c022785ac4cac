"""From what a recipe calls a source to batches: sources, sampling, streaming, labels, collating."""
