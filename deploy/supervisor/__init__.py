"""The control loop and its pieces."""
