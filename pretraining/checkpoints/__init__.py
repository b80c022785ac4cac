"""What a run keeps on disk: checkpoints, the run folder, resume, signals, uploads while it trains."""
