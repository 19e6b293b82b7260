"""Evaluation of language models and fine-tuned runs, alone and compared."""
