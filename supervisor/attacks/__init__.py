"""The attack suite: what a session might try, tried, with the measures that stop it and without them.

`catalog` has the attacks as values, `docker/attacker` the programs behind them. A row of the table counts
when the attack succeeds without all that is said to stop it; then each of these, alone, has to. Start at
`run`.
"""
