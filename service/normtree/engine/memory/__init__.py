"""Memory that processes of this node share."""
