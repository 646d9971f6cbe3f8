"""Layers, one file a family: each a `Network` whose `apply` names a top-level function."""
