"""The stories: read one and know what happens."""
