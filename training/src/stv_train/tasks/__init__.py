"""School mathematics with worked steps: problems, exact checking, feedback, mistakes."""
