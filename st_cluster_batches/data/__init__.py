"""Rows as people have them, read, checked, and split."""
