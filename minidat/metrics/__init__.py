"""Measures of a network's results: top-1 and top-5, average precision, mean IoU."""
