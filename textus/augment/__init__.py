"""Changed copies of labelled rows, and questions made of plain text."""
