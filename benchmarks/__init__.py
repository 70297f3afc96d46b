"""Measurements for load testers: what a user feels, against a floor that is measured in the same run."""
