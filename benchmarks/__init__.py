"""Experiments: tasks x agents x seeds -> results, leaderboard, command line."""
