"""Predictions on many machines: on Ray Data, or as a job array whose outputs are merged."""
