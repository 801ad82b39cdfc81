"""How often a policy is right: answers sampled, stored, and what follows from them."""
