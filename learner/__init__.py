"""Learning: losses, the way of a batch onto the device, the learner."""
