"""From the bytes of a picture to the pixels of a recipe, without a clock, a thread or an engine."""
