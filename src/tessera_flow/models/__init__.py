"""The encoders: their statistics, their checkpoints, their arithmetic."""
