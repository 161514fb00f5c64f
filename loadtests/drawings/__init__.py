"""Pictures and the page of results."""
