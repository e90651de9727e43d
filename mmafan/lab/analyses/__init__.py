"""The analyses: each defines its arguments, measures, draws and reports."""
