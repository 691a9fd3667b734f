"""Stock losses that read stored vectors: false negatives are masked, with no second forward pass."""
