"""``--resume``: what an earlier run left in an output, whether this run would have written it too, and the rest."""
