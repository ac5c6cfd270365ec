"""Training by gradient: the loop and what it needs. What must not enter: graphs, files, cases."""
