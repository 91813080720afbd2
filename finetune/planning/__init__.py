"""Planning: a recipe for images that were looked at, a machine that was timed, and some hours."""
