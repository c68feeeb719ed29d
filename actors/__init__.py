"""Acting: environments, preprocessing, exploration, the agent, the actor and the evaluator."""
