"""An app like ``whitenoise.runserver_nostatic``: runserver with another default."""
