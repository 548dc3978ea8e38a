"""A Django project for the tests; every server under test serves it."""
