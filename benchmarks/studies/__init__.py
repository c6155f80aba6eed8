"""Studies of feedback: each asks one question, and answers it with a table and a picture."""
