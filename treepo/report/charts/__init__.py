"""Charts of benchmarks and evaluations, made from their JSON files."""
