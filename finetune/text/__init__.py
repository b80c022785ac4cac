"""Text classification and regression, and the GLUE benchmark."""
