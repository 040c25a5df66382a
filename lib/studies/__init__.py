"""The notebooks' parameters, and what a notebook needs that no other room has."""
