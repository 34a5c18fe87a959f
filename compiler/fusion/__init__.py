"""Layer fusion: groups of nodes that are executed together, what they cost, and how to choose them."""
