"""Files, signals, the network and the terminal. Nothing here depends on images or models."""
