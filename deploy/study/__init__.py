"""Many runs from one study file: which trials there are, and what became of them."""
