"""Template tags of the sample site."""
