"""Decode image files to RGB and preprocess them to the pixels that the network sees."""
