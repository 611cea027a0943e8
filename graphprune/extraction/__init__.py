"""From a model to its graph."""
