"""Cluster sizes, purity, hardness and false negatives of batches, measured before training."""
