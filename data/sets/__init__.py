"""Data sets to try things with."""
