"""The stages of a run, one file each; every stage reads and writes the run's folder and can be interrupted."""
