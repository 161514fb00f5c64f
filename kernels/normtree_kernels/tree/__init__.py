"""The tree of a projection: its goal, its root and levels, and the blocks and pieces it is cut into."""
