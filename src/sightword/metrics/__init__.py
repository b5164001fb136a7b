"""Metrics: functions of tensors, and accumulators over batches and ranks."""
