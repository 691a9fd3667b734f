"""A recipe, and the stock trainer that it fills in."""
