"""vLLM servers as an engine, for trainers and engines on different machines."""
