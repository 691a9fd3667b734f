"""The demo: choose and compare batches on docstrings, without a network."""
