"""Who may ask: keys, and pages of other sites."""
