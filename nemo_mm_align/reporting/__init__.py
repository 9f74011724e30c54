"""What the reports share: the page and its parts, values as text, plots and pictures inside the page."""
