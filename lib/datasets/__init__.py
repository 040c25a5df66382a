"""Sources of crystals, the funnel, polymorph groups, splits and pairs, checks of a data set."""
