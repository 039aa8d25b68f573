"""Ops again in NumPy, with fewer passes over memory than their equations have as written."""
