"""Changes of a home carried over to its follower, by the keys that a logical slot names or by whole comparisons."""
