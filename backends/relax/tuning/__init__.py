"""Tuning: answers to what kernels leave open, found by running them, kept, and used again."""
