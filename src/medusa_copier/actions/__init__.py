"""The actions, one file each, and what they share."""
