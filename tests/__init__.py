"""Tests, one folder for each package, and the planted pairs they share."""
