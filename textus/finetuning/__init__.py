"""Fine-tuning for tasks, by the one training loop."""
