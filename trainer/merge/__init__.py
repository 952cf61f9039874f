"""Merging models of one architecture into one, in weight space."""
