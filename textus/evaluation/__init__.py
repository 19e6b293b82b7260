"""How good a model is: on text, on tasks, beside others."""
