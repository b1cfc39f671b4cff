"""The questions of the literature, each a short function over the primitives."""
