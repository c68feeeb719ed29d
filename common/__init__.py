"""Nouns, configuration, networks, wire format and storage: what every other package may use."""
