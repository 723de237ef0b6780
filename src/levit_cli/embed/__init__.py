"""Feature vectors of images: ``levit embed``, ``levit similar`` and ``levit duplicates``."""
