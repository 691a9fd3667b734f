"""Cards, the staged folder, and the Hub."""
