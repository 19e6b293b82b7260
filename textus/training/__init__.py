"""One training loop, its optimisers, plans and measurements."""
