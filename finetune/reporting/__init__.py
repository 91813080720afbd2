"""Reporting: what runs have come to, as one HTML file that people forward."""
