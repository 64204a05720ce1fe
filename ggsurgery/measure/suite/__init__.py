"""The surgery suite: one score out of 100 with its parts; see `run.run_suite`."""
