"""Roots: root name and key → location, what requests may do there, and symbolic links that lead out."""
