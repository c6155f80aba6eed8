"""Rewards learned from feedback: objectives, reward models, ensembles, personal rewards."""
