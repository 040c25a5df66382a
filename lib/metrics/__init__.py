"""Match rates, duplicates, distances to the hull, and whether structures are as they were asked for."""
