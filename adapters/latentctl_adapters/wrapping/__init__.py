"""Trial runs that find what a module takes and returns, and the base of saved networks."""
