"""The shipped tiny models, each with a card that says how to make it again."""
