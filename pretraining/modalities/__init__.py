"""A modality per file: what its examples are, how they are read, augmented, masked and put into batches."""
