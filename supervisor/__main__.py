"""`python -m supervisor` is the command `terminal-supervisor`."""

from supervisor.cli import main

raise SystemExit(main())
