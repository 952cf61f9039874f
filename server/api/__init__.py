"""The REST interface and the live events."""
