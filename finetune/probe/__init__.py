"""Features of a frozen encoder, and probes of them."""
