"""levit: classify images with LeViT, fast, from the command line. Importing the package imports nothing else."""

__version__ = "0.1.0"
