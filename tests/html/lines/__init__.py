"""An app whose models are sent."""
