"""Where parts live: in processes of Ray's, or in this one. No other room imports Ray."""
