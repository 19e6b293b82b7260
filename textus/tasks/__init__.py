"""What a model can be fine-tuned for, one file a task."""
