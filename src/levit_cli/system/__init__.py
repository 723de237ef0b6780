"""Files, signals, the network and the terminal: what does not depend on images or models."""
