"""The version of raydqn, and the packages that it consists of."""

VERSION = "0.1.0"
PACKAGES = ("common", "replay_server", "actors", "learner", "deploy")
