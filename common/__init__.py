"""Types, configuration, networks, wire format and storage, for every other package to use."""
