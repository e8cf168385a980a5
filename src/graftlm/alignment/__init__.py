"""Layer 6: learning from rewards: what an answer is worth, rollouts, policy optimisation, before and after."""
