"""What is learnt without steps: the head as a convex problem, evidence, the guard."""
