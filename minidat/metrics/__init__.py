"""Measures of a network's results."""
