"""Rewrite rules: patterns of operators, what stands in their place, and the proof that both mean the same."""
