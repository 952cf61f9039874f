"""Reinforcement learning without a critic: groups of answers, verified rewards, and a policy loss over them."""
