"""The network: its config, its training form, its inference form, and the names of its tensors."""
