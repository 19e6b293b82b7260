"""Models of other programs: read, checked, written."""
