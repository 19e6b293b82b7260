"""Figures of quality, with intervals."""
