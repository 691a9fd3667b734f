"""Clusters and negatives of the model that is being trained, before an epoch."""
