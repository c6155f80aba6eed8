"""Tasks small enough to enumerate: the best policy, its reward, KL and entropy are exact."""
