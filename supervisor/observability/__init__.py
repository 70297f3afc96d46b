"""What the program tells its operator: logs, without secrets and without anything that a stranger could
forge.
"""
