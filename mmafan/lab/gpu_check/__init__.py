"""What one GPU shows within a limit of time: tests, costs and a study."""
