"""What the event loop leaves to others, and how long it waits for them."""
