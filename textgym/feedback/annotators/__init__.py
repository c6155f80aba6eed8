"""Who answers: simulated people, language models, stored human choices; one protocol for all."""
