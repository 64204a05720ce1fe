"""Public benchmarks through lm-evaluation-harness (extra `[bench]`); see `run.run_bench`."""
