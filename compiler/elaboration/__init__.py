"""Tree → Graph, in layers: each class adds one concern to the one below it.

problem, place, signature, apply, evaluate, execute; `elaborate` has the entry points.
"""
