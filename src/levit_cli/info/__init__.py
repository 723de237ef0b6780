"""``levit info``."""
