"""Features of a frozen encoder, and classifiers on them."""
