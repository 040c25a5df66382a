"""Pages, the index, published runs, and the comparison of a run with a published one."""
