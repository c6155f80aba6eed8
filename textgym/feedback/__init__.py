"""Human feedback: questions, answers, who gives them, and what is learned from them."""
