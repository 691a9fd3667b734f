"""From texts to vectors, from vectors to clusters, from clusters to label columns."""
