"""Measure captions: readers, metrics, batch evaluation."""
