"""The model card: facts of a run folder, tables, metadata, code to use the model."""
