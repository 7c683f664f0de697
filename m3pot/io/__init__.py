"""Model files: our own, those of other packages, and models by name."""
