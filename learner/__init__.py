"""Learning: losses, the optimiser, batches on the device, and the learner."""
