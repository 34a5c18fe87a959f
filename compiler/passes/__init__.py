"""Optimisations and preparations: functions from a graph to a graph, one verb a file."""
