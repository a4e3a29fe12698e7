"""What answers a learner: guesses, and a score."""
