"""The procedural worlds behind the embedded tasks."""
