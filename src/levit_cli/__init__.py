"""levit: classify images quickly with LeViT from the command line. Importing the package imports nothing else."""

__version__ = "0.1.0"
