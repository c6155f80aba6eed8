"""A results folder as one page that needs nothing else, and its charts for papers."""
