"""What is decided: gains, guards, verdicts and rankings from results per paper."""
