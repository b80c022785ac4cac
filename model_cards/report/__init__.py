"""One HTML page that shows a run, or two side by side."""
