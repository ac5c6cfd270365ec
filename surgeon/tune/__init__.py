"""Learning: graphs as torch modules, the head solved, everything tuned, checkpoints.

What must not enter: the order of the whole operation, and files of models.
"""
