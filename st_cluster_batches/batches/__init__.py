"""The plan as stock trainers take it: samplers, a callback, messages, and data in the order of its batches."""
