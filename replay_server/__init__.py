"""The sharded, prioritised replay memory. Knows numpy, never torch or ray."""
