"""Read inputs from object storage and other file systems of fsspec, and write outputs there."""
