"""What commands print: `--help`, exit codes, progress bars; and what they never print: tokens and passwords."""
