"""Retrieval scores by mteb, comparisons of batch strategies, and trials that choose one."""
