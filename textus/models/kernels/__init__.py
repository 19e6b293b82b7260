"""Native code for processors, each part beside a twin in PyTorch."""
