"""Text from models: sampling, the plain loop, the engine."""
