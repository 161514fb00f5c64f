"""The head of a request: headers, query, and by which ids it is known."""
