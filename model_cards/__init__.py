"""Model cards, rendered from a run folder."""
