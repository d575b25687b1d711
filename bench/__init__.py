"""What Allod costs, measured beside the bare worker: `make bench`. docs/bench.md says what each line means."""
