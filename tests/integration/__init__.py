"""Real servers, real clients."""
