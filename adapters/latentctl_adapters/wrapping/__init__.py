"""How a trial run finds out what a module takes and returns."""
