"""Tests of the layer between the WSGI server and the view."""
