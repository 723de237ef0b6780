"""List the images to classify or train on, and read class folders and labels."""
