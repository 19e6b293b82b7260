"""Runs put together: search by meaning, triples from text."""
