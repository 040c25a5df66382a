"""Which template or which sites a composition takes: substitution, site statistics, learnt ranking."""
