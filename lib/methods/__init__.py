"""One file a method: what is drawn, its loss, its samplers."""
