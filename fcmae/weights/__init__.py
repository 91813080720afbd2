"""Weights: every name of a tensor, what files hold, and the models that others load."""
