"""Measurements for load testers: what a user feels, of any server, beside a floor measured in the same run.

`adapters` speak the servers' protocols, `targets` start servers, `scenarios` ask one question each, `runner`
interleaves them, `results` keeps the figures, `report` and `compare` read them. docs/performance.md is the
manual.
"""
