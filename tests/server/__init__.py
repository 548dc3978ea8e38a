"""The layer between the WSGI server and the view."""
