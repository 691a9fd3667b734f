"""From label columns to the batches of an epoch: integers only, but where clusters are made anew by refresh."""
