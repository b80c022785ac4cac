"""Audio classification: one label per clip or several."""
