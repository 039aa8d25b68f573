"""Data, augmentation and everything that trains a model."""
