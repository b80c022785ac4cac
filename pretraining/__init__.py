"""Pretraining: data, masks in the loader, the trainer and the recipes. Start with `run.py`."""
