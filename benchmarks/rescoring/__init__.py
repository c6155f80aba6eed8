"""New columns for old results, from the samples they have kept."""
