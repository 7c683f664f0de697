"""Published benchmarks, for models of this package and any ASE calculator side by side."""
