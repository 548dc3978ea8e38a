"""Tests of the sample site, served and used as by a visitor."""
