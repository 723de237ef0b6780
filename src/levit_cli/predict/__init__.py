"""``levit predict``, and the prediction pipeline that it shares with ``levit eval``."""
