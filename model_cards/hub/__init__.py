"""What is uploaded to the Hub, and what went wrong on the way."""
