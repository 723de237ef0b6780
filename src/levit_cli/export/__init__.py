"""Export a model for other runtimes, with a script that uses it, and prove that it answers like the original."""
