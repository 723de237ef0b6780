"""From the bytes of an image to the pixels of a preprocessing, without a clock, a thread or an engine."""
