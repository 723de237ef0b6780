"""What to classify or train on: inputs, class folders, labels."""
