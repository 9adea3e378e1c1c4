"""What the API server has, brought to the world: caches, our own kinds, settings."""
