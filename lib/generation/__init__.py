"""Trained models ready to sample, shipped weights, and a user's request with its answer."""
