"""The sample site, served and used as a visitor does."""
