"""``levit quantize``: make an int8 model, and refuse it unless it predicts like the original on the user's images."""
