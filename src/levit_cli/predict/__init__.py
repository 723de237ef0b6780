"""Inputs made ready ahead of the engine: read, decoded, resized; in order, within their time, in processes if asked."""
