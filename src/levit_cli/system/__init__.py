"""Access files, the network, signals and the terminal. Nothing here depends on images or models."""
