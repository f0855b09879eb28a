"""Side-by-side performance measurements; `scripts/bench` runs them and prints tables. They assert nothing."""
