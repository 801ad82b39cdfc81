"""The policy: a language model of transformers, and the attention that lets it forward packed trees."""
