"""Policies: any causal language model behind one small interface."""
