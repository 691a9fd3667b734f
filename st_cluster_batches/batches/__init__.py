"""From label columns to the batches of an epoch: integers only."""
