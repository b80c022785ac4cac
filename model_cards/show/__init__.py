"""Pictures of what an encoder makes of data."""
