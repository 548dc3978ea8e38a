"""The tables of the sample site."""
