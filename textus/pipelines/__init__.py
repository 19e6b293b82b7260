"""Pipelines of several runs: embedding files, search, triples from text."""
