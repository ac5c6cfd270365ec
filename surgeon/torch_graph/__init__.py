"""From a graph to a torch module, and what it computes: names, steps, fused steps, weights."""
