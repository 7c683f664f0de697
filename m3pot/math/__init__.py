"""Pure mathematics on JAX arrays: no model, no file, no structure."""
