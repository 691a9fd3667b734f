"""Files that survive a kill, arrays in chunks, and processes that share work."""
