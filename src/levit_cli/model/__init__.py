"""The network: its config, the training form, the inference form, and the names of its tensors."""
