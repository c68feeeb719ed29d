"""Putting the parts together: the command line, the program, the supervisor, Ray."""

VERSION = "0.1.0"
PACKAGES = ("common", "replay_server", "actors", "learner", "deploy")
