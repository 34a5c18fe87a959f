"""Something to look at: a model and its way through a pipeline as one page, and a small version for notebooks."""
