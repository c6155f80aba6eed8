"""The page on which people label: questions in a browser, answers in the store."""
