"""Tables of choices, one algorithm each, in TOML."""
