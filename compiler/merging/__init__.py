"""Several models made one: their numbers combined, and before that their units brought into one order."""
