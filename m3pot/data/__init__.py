"""Data sets: manifests, labelled frames, cached neighbour lists, batches."""
