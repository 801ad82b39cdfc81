"""Hugging Face models: loading, saving, and the attention they call."""
