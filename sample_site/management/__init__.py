"""Commands of the sample site."""
