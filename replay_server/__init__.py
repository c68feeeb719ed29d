"""The sharded, prioritised replay memory. It imports numpy, never torch or ray."""
