"""Putting the parts together: the command line, the program, the supervisor, Ray."""
