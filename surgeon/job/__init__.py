"""One job of tuning: decided, the frozen part run, stages trained, the result proven."""
