"""``levit convert-checkpoint``."""
