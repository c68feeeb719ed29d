"""Acting: environments, preprocessing, exploration, the agent and the actor."""
