"""Run context and manifest, parameters, safe writing, worker processes, statistics, published numbers."""
