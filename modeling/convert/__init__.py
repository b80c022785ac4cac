"""Checkpoints of other code -> `transformers` folders, and back. Stays at home: not part of the remote code."""
