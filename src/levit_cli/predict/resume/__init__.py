"""``--resume``: read the existing records of an output, check that they are compatible, and merge new ones in."""
