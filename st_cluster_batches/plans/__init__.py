"""From integer labels to the batches of an epoch, in numpy alone."""
