"""Retrieval scores by mteb, and comparisons of batch strategies."""
