"""The reactor in C, which ``link.py`` uses if it is built."""
