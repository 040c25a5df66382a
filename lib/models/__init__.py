"""Networks, the states that they see, and losses."""
